"""Calibration and thresholds anew on somebody's own labelled rows; the weights stay.

Which map a head gets, and its curves, are told by rows that the map was not fitted on (five folds by prompt); the maps
that are kept, and the thresholds, are fitted on all rows. What was served is what is calibrated: of an exported guard
the exported network's logits.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from poise import metrics
from poise.data import uniform_seed
from poise.data.folders import partial_folder, write_json
from poise.data.tables import Tables
from poise.errors import PoiseError
from poise.guard.calibrated import CalibratedGuard
from poise.guard.calibration import Calibration, Isotonic, Platt, mapped_by, probabilities, sigmoid
from poise.guard.fit.calibration import (
    HEADS,
    LEAST,
    Method,
    calibrate,
    decided,
    enough,
    head_logits,
    level_cuts,
    log_loss,
    thresholds,
)
from poise.guard.fit.curves import curve, draw
from poise.guard.fit.loss import GuardTargets
from poise.guard.fit.rows import labelled_rows
from poise.guard.fit.training import targets_of
from poise.guard.windows import Logits
from poise.harm import Severity
from poise.models.encoder import ignore

FOLDS = 5
CURVES, PLOT = "curves.json", "curves.png"
_COLUMNS = {"unsafe": ("severity", 0), "moderate": ("severity", 1), "severe": ("severity", 2)}


class Fitted(NamedTuple):
    """Args: calibration: of all rows; methods: of each head; held: logits of each row by maps that did not see it."""

    calibration: Calibration
    methods: dict[str, Method]
    held: Logits


def fit_maps(
    logits: Logits,
    targets: GuardTargets,
    folds: NDArray[np.int64],
    method: Literal["platt", "isotonic", "auto"],
    before: Calibration | None = None,
) -> Fitted:
    """Maps of all heads, and what maps of the same kind say of rows that they were not fitted on.

    Args:
        logits: not calibrated, of N rows.
        targets: what is known of them.
        folds: of each row, shape (N,).
        method: "auto" takes for each head the one with the lower loss on rows kept apart.
        before: see `calibrate`.
    """
    kinds: tuple[Method, ...] = ("platt", "isotonic") if method == "auto" else (method,)
    apart = {kind: _out_of_fold(logits, targets, folds, kind, before) for kind in kinds}
    told = (targets.categories, targets.at_least, targets.refusal)
    methods: dict[str, Method] = {}
    for head in HEADS:
        loss = {kind: log_loss(head_logits(apart[kind], head), head_logits(told, head)) for kind in kinds}
        methods[head] = min(kinds, key=lambda kind: np.inf if np.isnan(loss[kind]) else loss[kind])
    parts = {head: head_logits(apart[methods[head]], head) for head in HEADS}
    held = Logits(
        np.concatenate([parts[head] for head in HEADS[:-2]], axis=1), parts["severity"], parts["refusal"][:, 0]
    )
    return Fitted(calibrate(logits, targets, methods, before), methods, held)


def _out_of_fold(
    logits: Logits, targets: GuardTargets, folds: NDArray[np.int64], kind: Method, before: Calibration | None
) -> Logits:
    out = Logits(*(part.copy() for part in logits))
    for fold in range(FOLDS):
        kept, held = folds != fold, folds == fold
        chosen = torch.from_numpy(kept)
        fitted = calibrate(
            Logits(*(part[kept] for part in logits)),
            GuardTargets(*(part[chosen] for part in targets)),
            dict.fromkeys(HEADS, kind),
            before,
        )
        for whole, part in zip(out, fitted.apply(Logits(*(part[held] for part in logits))), strict=True):
            whole[held] = part
    return out


def recalibrate(
    guard: CalibratedGuard,
    tables: Tables,
    out: Path,
    *,
    method: Literal["platt", "isotonic", "auto"] = "auto",
    rate: float = 0.05,
    block_at: Severity | None = None,
    on_rows: Callable[[int], object] = ignore,
) -> dict[str, Any]:
    """Write a copy of a guard with maps and thresholds fitted on labelled tables, with its curves; returns them.

    What too few rows tell stays as it was: a head's map and threshold, the cut of a level.

    Args:
        tables: rows that say "test" are left out.
        out: the new folder; must not exist.
        rate: share of the rows without a harm that its threshold lets be flagged.
        block_at: the level from which `CalibratedGuard.blocks` says yes.

    Raises:
        PoiseError: `out` exists, no row may be used, or too few are safe or unsafe.
    """
    if out.exists():
        raise PoiseError("already exists", where=str(out), do="choose another folder")
    rows = [row for row in labelled_rows(tables) if row.part != "test"]
    unsafe = [row.unsafe for row in rows if row.unsafe is not None]
    if min(sum(unsafe), len(unsafe) - sum(unsafe)) < LEAST:
        raise PoiseError(
            f"{sum(unsafe)} unsafe and {len(unsafe) - sum(unsafe)} safe rows that don't say test; {LEAST} of each are "
            "needed",
            where=str(tables.folder),
            do="label more, or keep rows of another split apart",
        )
    logits = guard.raw_logits([(row.prompt, row.response) for row in rows], on_rows)
    targets = targets_of(rows, torch.device("cpu"))
    folds = np.array([uniform_seed(0, "fold", row.prompt) % FOLDS for row in rows])
    fitted = fit_maps(logits, targets, folds, method, guard.calibration)
    limits = _thresholds(guard, fitted.calibration, logits, targets, rate)
    if block_at is not None and block_at > Severity.MINOR and limits["at_least"][block_at - 1] is None:
        raise PoiseError(
            f"too few rows are graded to tell {block_at.label} from milder harm",
            where=str(tables.folder),
            do=f"label {LEAST} rows of each, or leave --block-at out",
        )
    before = guard.calibration.apply(logits)
    told = _curves(before, fitted, targets, limits) | {
        "false_positive_rate": rate,
        "rows": len(rows),
        "mute": limits["mute"],
    }
    _write(guard, out, _settings(guard, fitted.calibration, limits, rate, block_at), told)
    return told


def _settings(
    guard: CalibratedGuard,
    calibration: Calibration,
    limits: Mapping[str, Sequence[Any]],
    rate: float,
    block_at: Severity | None,
) -> dict[str, Any]:
    """Those of the guard with the new calibration and thresholds. Args: limits, see `_thresholds`."""
    return guard.settings | {
        "calibration": calibration.to_json(),
        "thresholds": {
            "unsafe": limits["at_least"][0],
            "categories": limits["categories"],
            "levels": limits["cuts"],
            "block": None if block_at is None else limits["at_least"][block_at - 1],
            "false_positive_rate": rate,
        },
        "block_at": None if block_at is None else block_at.label,
    }


def _thresholds(
    guard: CalibratedGuard, calibration: Calibration, raw: Logits, targets: GuardTargets, rate: float
) -> dict[str, list[Any]]:
    """Of the three levels (None where too few rows are known), of the 19 categories, and the cuts of the levels.

    "mute" names the heads whose new threshold no row with the harm reaches: where a map is flat at its top, or the head
    can't tell, and more harmless rows than `rate` allows stand as high as any.

    Args:
        guard: whose thresholds and cuts are kept where too few rows are known.
        calibration: the new maps; raw: logits before them.
    """
    found = probabilities(calibration.apply(raw))
    at_least, categories = targets.at_least.numpy().T, targets.categories.numpy().T
    reached = [found.unsafe, *(found.severity[:, level:].sum(axis=1) for level in (2, 3))]  # rounded as in `blocks`
    levels = thresholds(reached, list(at_least), rate)
    limits = thresholds(list(found.categories.T), list(categories), rate, guard.category_thresholds)
    heads = zip((*_COLUMNS, *HEADS[:-2]), (*reached, *found.categories.T), (*at_least, *categories), strict=True)
    known = [enough(told) for told in (*at_least, *categories)]
    mute = [
        name
        for (name, score, told), limit, fine in zip(heads, (*levels, *limits), known, strict=True)
        if fine and not (score[told > 0.5] >= limit).any()
    ]
    maps = zip(guard.level_cuts, guard.calibration.severity_maps[1:], calibration.severity_maps[1:], strict=True)
    two, three = (_carried(cut, old, new) for cut, old, new in maps)
    return {
        "at_least": [limit if fine else None for limit, fine in zip(levels, known[:3], strict=True)],
        "categories": limits,
        "cuts": list(level_cuts(found.at_least, targets.at_least.numpy(), (two, three))),
        "mute": mute,
    }


def _carried(cut: float, old: Platt | Isotonic, new: Platt | Isotonic) -> float:
    """The probability by a new map of the logit that has this one by the old; 1 where none has, 0 where all have."""
    if not 0.0 < cut < 1.0:
        return cut
    wanted = np.log(cut) - np.log1p(-cut)
    if isinstance(old, Isotonic):
        y, first = np.unique(old.y, return_index=True)
        if not y[0] < wanted <= y[-1]:
            return float(wanted > y[-1])
        raw = np.interp(wanted, y, np.array(old.x)[first])
    else:
        raw = (wanted - old[1]) / old[0]
    return float(sigmoid(mapped_by(new, np.array([raw], np.float32)))[0])


def _curves(
    before: Logits, fitted: Fitted, targets: GuardTargets, limits: Mapping[str, Sequence[Any]]
) -> dict[str, Any]:
    """Reliability of each head that was fitted, before and after, on rows that its map was not fitted on.

    "kept" has the heads with too few rows, and how many of the rarer kind there are.
    """
    told = (targets.categories, targets.at_least, targets.refusal)
    heads, kept = [], {}
    for name in (*_COLUMNS, *HEADS[:-2], "refusal"):
        head, column = _COLUMNS.get(name, (name, 0))
        target = head_logits(told, head)[:, column]
        known = decided(target)
        positive = target[known] > 0.5
        few = min(int(positive.sum()), int((~positive).sum()))
        if few < LEAST:
            kept[name] = few
            continue
        was, now = (sigmoid(head_logits(x, head)[known, column]) for x in (before, fitted.held))
        if name in _COLUMNS:
            threshold = limits["at_least"][column]
        else:
            threshold = 0.5 if name == "refusal" else limits["categories"][HEADS.index(name)]
        entry: dict[str, Any] = {"head": name, "method": fitted.methods[head], "threshold": threshold}
        entry |= {"n": len(positive), "positive": int(positive.sum())}
        for when, p in (("before", was), ("after", now)):
            entry[when] = {"ece": metrics.ece(p, positive), "curve": curve(p, positive)}
            entry[when]["log_loss"] = log_loss(np.log(p) - np.log1p(-p), positive.astype(np.float64))
        heads.append(entry)
    return {"folds": FOLDS, "least": LEAST, "heads": heads, "kept": kept}


def _write(guard: CalibratedGuard, out: Path, settings: dict[str, Any], told: dict[str, Any]) -> None:
    parts = partial_folder(out)
    shutil.rmtree(parts, ignore_errors=True)
    try:
        shutil.copytree(guard.folder, parts, ignore=shutil.ignore_patterns("metrics.json", CURVES, PLOT))
        if "noted" in settings:  # what an exported guard is checked by when it is opened
            noted = [(entry["prompt"], entry["response"]) for entry in settings["noted"]]
            fresh = probabilities(Calibration.from_json(settings["calibration"]).apply(guard.raw_logits(noted))).unsafe
            settings["noted"] = [
                entry | {"unsafe": float(p)} for entry, p in zip(settings["noted"], fresh, strict=True)
            ]
        write_json(parts / "guard.json", settings)
        write_json(parts / CURVES, told)
        draw(parts / PLOT, told["heads"])
        parts.rename(out)
    finally:
        shutil.rmtree(parts, ignore_errors=True)
