"""A trained guard as one file that needs no torch, checked against the torch model before anybody can use it.

The folder holds `model.onnx`, `tokenizer.json`, and `guard.json` with engine, check, calibration and thresholds.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from poise.data.folders import partial_folder, write_json
from poise.errors import PoiseError
from poise.guard.calibration import Floats, probabilities, sigmoid
from poise.guard.fast.guard import NETWORK, TOKENIZER, FastGuard, read_settings
from poise.guard.fast.network import APART, quantise, write_network
from poise.guard.shipped import guard_folder
from poise.guard.windows import Logits, Text, padded

if TYPE_CHECKING:
    from poise.guard.calibrated import CalibratedGuard

Engine = Literal["onnx", "onnx-int8", "torch-bf16", "torch-fp32"]
LIMITS: dict[Engine, float] = {"onnx": 0.001, "onnx-int8": 0.15, "torch-bf16": 0.15, "torch-fp32": 0.001}
"""The largest difference of a probability from torch in float32 that an export may have."""
LEAST_COSINE = 0.99
"""Of the 23 logits of a text with those of torch in float32."""
_TEXTS, _NOTED = 64, 6


class Check(NamedTuple):
    """How far an engine is from torch in float32 on our own seeds.

    Args:
        texts: how many.
        max_probability: largest difference of any calibrated probability; mean_unsafe: mean of P(unsafe).
        cosine: smallest cosine of the 23 logits of a text before calibration.
        limit: largest difference allowed.
    """

    texts: int
    max_probability: float
    mean_unsafe: float
    cosine: float
    limit: float

    @property
    def passed(self) -> bool:
        """Whether it may be written."""
        return self.max_probability <= self.limit and self.cosine >= LEAST_COSINE


def check_texts() -> list[Text]:
    """The fixed texts of the check: prompts and pairs of our own seeds, and one text of several windows."""
    return _seed_texts()[0]


def smoothing_texts() -> list[Text]:
    """Others of our seeds, which show how wide the network's channels are."""
    return _seed_texts()[1]


def _seed_texts() -> tuple[list[Text], list[Text]]:
    from poise.data import load_seeds

    seeds = load_seeds()
    prompts: dict[str, str] = {row.id: row.prompt for row in seeds.prompts}
    alone, other_alone = _spread([(text, None) for text in prompts.values()])
    pairs, other_pairs = _spread([(prompts[row.prompt_id], row.response) for row in seeds.qa])
    long = (pairs[0][0], " ".join(str(response) for _, response in pairs[:24]))
    return [*alone, *pairs, long], [*other_alone, *other_pairs]


def _spread(rows: list[Text]) -> tuple[list[Text], list[Text]]:
    """Twice so many of the rows, spread over them; none is in both."""
    chosen = [i * len(rows) // _TEXTS for i in range(_TEXTS)]
    return [rows[i] for i in chosen], [rows[i + 1] for i in chosen]


def compare(found: Logits, truth: Logits, guard: CalibratedGuard, limit: float) -> Check:
    """How far logits are from the true ones, both before calibration, which is the guard's."""
    ours, theirs = (np.concatenate([x.categories, x.at_least, x.refusal[:, None]], axis=1) for x in (found, truth))
    cosine = (ours * theirs).sum(1) / (np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1))
    p, q = (_all_probabilities(guard.calibration.apply(x)) for x in (found, truth))
    apart = np.abs(p - q)
    return Check(len(p), float(apart.max()), float(apart[:, 19].mean()), float(cosine.min()), limit)


def _all_probabilities(logits: Logits) -> Floats:
    return sigmoid(np.concatenate([logits.categories, logits.at_least, logits.refusal[:, None]], axis=1))


def export_guard(folder: Path, out: Path, engine: Engine, *, measured: Any = None) -> Check:
    """Write the guard of a folder for an engine, or nothing where it fails the check.

    Args:
        folder: what `poise guard train` or `calibrate` wrote.
        out: the new folder; must not exist.
        measured: timings of engines, kept in its `guard.json`.

    Raises:
        PoiseError: no guard, `out` exists, `onnx` is not installed, or the engine says something else than torch.
    """
    import torch

    from poise.guard.fit.apply import TrainedGuard

    folder = guard_folder(folder)
    if out.exists():
        raise PoiseError("already exists", where=str(out), do="choose another folder")
    if str(read_settings(folder).get("engine", "torch")).startswith("onnx"):
        raise PoiseError("is already exported", where=str(folder), do="export the trained guard")
    guard = TrainedGuard(folder)
    guard.model.merge()
    guard.model.run_in(torch.float32)
    texts = check_texts()
    truth = guard.raw_logits(texts)
    unsafe = probabilities(guard.calibration.apply(truth)).unsafe
    noted = [
        {"prompt": texts[i][0], "response": texts[i][1], "unsafe": float(unsafe[i])}
        for i in range(0, len(texts), len(texts) // _NOTED)
    ]
    keep = ("policy", "calibration", "thresholds", "block_at", "plan", "encoder")
    told = {name: guard.settings[name] for name in keep if name in guard.settings}
    told |= {"engine": engine, "trained_version": guard.version, "noted": noted, "measured": measured}
    parts = partial_folder(out)
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir(parents=True)
    try:
        if engine.startswith("torch"):
            check = _write_torch(guard, parts, engine, told, truth, texts)
        else:
            check = _write_onnx(guard, parts, engine, told, truth, texts)
        parts.rename(out)
    finally:
        shutil.rmtree(parts, ignore_errors=True)
    return check


def _write_torch(
    guard: Any, parts: Path, engine: Engine, told: dict[str, Any], truth: Logits, texts: Sequence[Text]
) -> Check:
    import torch

    guard.model.run_in(torch.bfloat16 if engine == "torch-bf16" else torch.float32)
    check = _passed(compare(guard.raw_logits(texts), truth, guard, LIMITS[engine]), engine)
    guard.model.save(parts, told | {"check": check._asdict()})
    return check


def _write_onnx(
    guard: Any, parts: Path, engine: Engine, told: dict[str, Any], truth: Logits, texts: Sequence[Text]
) -> Check:
    tokenizer = guard.model.encoder.tokenizer
    if not getattr(tokenizer, "is_fast", False):
        raise PoiseError("has no tokenizer.json", where=str(guard.folder), do="use a trunk with a fast tokenizer")
    tokenizer.backend_tokenizer.save(str(parts / TOKENIZER))
    told = told | {"max_length": guard.model.encoder.max_length, "marks": guard.model.marks._asdict()}
    with tempfile.TemporaryDirectory(prefix="poise-") as work:
        plain = Path(work) / NETWORK
        write_network(guard.model, plain)
        shown = [padded(guard.windows(text)[:1], guard.model.marks) for text in smoothing_texts()]
        check = None
        for apart in (APART, 4 * APART) if engine == "onnx-int8" else (0.0,):
            if engine == "onnx-int8":
                quantise(plain, parts / NETWORK, shown, apart=apart)
            else:
                shutil.copyfile(plain, parts / NETWORK)
            write_json(parts / "guard.json", told | {"check": {"limit": LIMITS[engine]}})
            found = FastGuard(parts, verify=False).raw_logits(texts)
            check = compare(found, truth, guard, LIMITS[engine])
            told["inputs_apart"] = apart
            if check.passed:
                break
    assert check is not None
    write_json(parts / "guard.json", told | {"check": _passed(check, engine)._asdict()})
    return check


def _passed(check: Check, engine: Engine) -> Check:
    if not check.passed:
        raise PoiseError(
            f"{engine} moves a probability by up to {check.max_probability:.4f} (allowed {check.limit:g}), least "
            f"cosine {check.cosine:.4f} (allowed {LEAST_COSINE:g}); nothing was written",
            do="use --engine onnx",
            exit_code=4,
        )
    return check


def describe(check: Check) -> str:
    """One line for people."""
    return (
        f"{check.texts} texts against torch in float32: probabilities apart by at most {check.max_probability:.4f} "
        f"(allowed {check.limit:g}), P(unsafe) by {check.mean_unsafe:.4f} on average, least cosine {check.cosine:.4f}"
    )
