"""From a plan and a folder of sets to a guard: read, train, calibrate, measure; the folder appears when complete.

    <out>/    trunk or adapters, tokenizer, heads.safetensors, guard.json (settings, calibration, thresholds)
    <out>/metrics.json    what it can do on test rows, set by set, beside TF-IDF
    <out>/README.md       the same for people: a model card
    <out>/held_out.json   ids of those of our seed prompts that it learnt nothing of, where the plan has the seeds

While it works, `.<name>.work` beside it holds the tables and the last checkpoint; a killed run goes on from there.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from poise.data import load_seeds
from poise.data.folders import partial_folder, write_json
from poise.data.tables import Tables
from poise.errors import PoiseError
from poise.guard.calibration import Calibration, levels_of, probabilities
from poise.guard.fit.answers import answered
from poise.guard.fit.calibration import calibrate, level_cuts, thresholds
from poise.guard.fit.card import guard_card
from poise.guard.fit.enrich import enrich, evened
from poise.guard.fit.measure import category_table, set_table, severity_table, tfidf_scores
from poise.guard.fit.model import GuardLogits, GuardModel
from poise.guard.fit.plan import DataPlan, ModelPlan, TrainingPlan
from poise.guard.fit.rows import SEEDS, Row, prepare, rows_of
from poise.guard.fit.training import fit, targets_of
from poise.guard.shipped import HELD_OUT
from poise.guard.windows import Logits
from poise.harm import policy_version
from poise.models.bundled import resolve


class Watch(NamedTuple):
    """What is told on the way.

    Args:
        note: gets lines.
        answered: (answers written, all).
        step: (done, all, loss).
        judged: (rows judged, all), for calibration first and then for the tables.
    """

    note: Callable[[str], object] = lambda line: None
    step: Callable[[int, int, float], object] = lambda done, total, loss: None
    judged: Callable[[int, int], object] = lambda done, total: None
    answered: Callable[[int, int], object] = lambda done, total: None


_SILENT = Watch()


class Plan(NamedTuple):
    """All that decides the result."""

    name: str
    seed: int
    data: DataPlan
    model: ModelPlan
    training: TrainingPlan

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        parts = {n: getattr(self, n).model_dump(mode="json") for n in ("data", "model", "training")}
        return {"name": self.name, "seed": self.seed, **parts}


def train_guard(plan: Plan, data: Path, out: Path, watch: Watch = _SILENT) -> dict[str, Any]:
    """Train, calibrate, measure and save; returns the metrics.

    Raises:
        PoiseError: `out` exists, a set can't be read, the work folder is of another plan, or no row trains, calibrates
            or measures.
    """
    if out.exists():
        raise PoiseError("already exists", where=str(out), do="choose another folder")
    work = _work_folder(out, plan)
    rows = plan_rows(plan, prepare(plan.data, data, work, plan.seed, watch.note), work / "replies.sqlite", watch)
    parts = {part: [row for row in rows if row.part == part] for part in ("train", "calibration", "test")}
    watch.note(", ".join(f"{part} {len(own):,}" for part, own in parts.items()) + " rows")
    if empty := [part for part, own in parts.items() if not own]:
        raise PoiseError(
            f"no {empty[0]} rows", where=plan.name, do="raise data.test_share or data.calibration_share, or add rows"
        )
    model = GuardModel(
        resolve(plan.model.encoder),
        max_length=plan.model.max_length,
        lora_rank=plan.model.lora_rank,
        dropout=plan.model.dropout,
        seed=plan.seed,
    )
    fitted = learn(
        model,
        parts["train"],
        parts["calibration"],
        plan.training,
        plan.seed,
        checkpoint=work / "checkpoint.safetensors",
        watch=watch,
    )
    tested = fitted.calibration.apply(_logits(model, parts["test"], watch))
    measured = measure(tested, parts["test"], parts["train"], fitted.limits[0], fitted.cuts)
    measured |= {"rows": {part: len(own) for part, own in parts.items()}, "losses": fitted.losses}
    measured["sources"] = dict(Counter(row.source for row in parts["train"]))
    learnt = {row.prompt for row in rows if row.part != "test"}
    _save(out, model, plan, fitted, measured, learnt)
    shutil.rmtree(work)
    return measured


def plan_rows(plan: Plan, tables: Tables, replies: Path, watch: Watch = _SILENT) -> list[Row]:
    """All rows of the plan's sets, and what it adds to those that train, with their weights.

    Args:
        tables: from `prepare`.
        replies: file of the written answers, read again by a later run.

    Raises:
        PoiseError: the model that writes answers can't be loaded.
    """
    rows = rows_of(tables, plan.data, plan.seed)
    if plan.data.answered is not None:
        watch.note("writing answers to plain requests")
        rows = answered(rows, plan.data.answered, plan.seed, replies, on_rows=watch.answered)
    return evened(enrich(rows, plan.data, plan.seed), plan.data.set_power)


class Fitted(NamedTuple):
    """What training leaves beside the weights.

    Args:
        losses: of each step.
        calibration: of all heads.
        limits: P(severity >= 1) from which a text is unsafe, then P(category) from which each of the 19 is named.
        cuts: see `level_cuts`.
        false_positive_rate: share of harmless calibration rows that the limits let be flagged.
    """

    losses: list[float]
    calibration: Calibration
    limits: list[float]
    cuts: tuple[float, float]
    false_positive_rate: float

    def to_json(self) -> dict[str, Any]:
        """What `guard.json` keeps of it."""
        limits = {"unsafe": self.limits[0], "categories": self.limits[1:], "levels": self.cuts}
        return {
            "policy": policy_version(),
            "calibration": self.calibration.to_json(),
            "thresholds": {**limits, "false_positive_rate": self.false_positive_rate},
        }


def learn(
    model: GuardModel,
    train: Sequence[Row],
    held: Sequence[Row],
    training: TrainingPlan,
    seed: int,
    *,
    checkpoint: Path,
    watch: Watch = _SILENT,
) -> Fitted:
    """Train the network in place, then fit calibration, thresholds and level cuts on rows kept apart.

    Raises:
        PoiseError: no rows, or a loss that is not a number.
    """
    losses = fit(model, train, training, seed, checkpoint=checkpoint, on_step=watch.step)
    logits = _logits(model, held, watch)
    targets = targets_of(held, torch.device("cpu"))
    calibration = calibrate(logits, targets)
    probability = probabilities(calibration.apply(logits))
    limits = thresholds(
        [probability.unsafe, *probability.categories.T],
        [targets.at_least[:, 0].numpy(), *targets.categories.T.numpy()],
        training.false_positive_rate,
    )
    cuts = level_cuts(probability.at_least, targets.at_least.numpy())
    return Fitted(losses, calibration, list(limits), cuts, training.false_positive_rate)


def measure(
    logits: Logits, rows: Sequence[Row], train: Sequence[Row], threshold: float, cuts: tuple[float, float]
) -> dict[str, Any]:
    """Tables by set, of severity and of categories; TF-IDF beside where scikit-learn is installed.

    Args:
        logits: calibrated, of the rows.
        train: what TF-IDF learns from.
        threshold: P(severity >= 1) from which a row counts as unsafe.
        cuts: see `level_cuts`; for them a row counts as unsafe from P(severity >= 1) = 0.5 on.
    """
    found = probabilities(logits)
    table = set_table(rows, found.unsafe, threshold, levels_of(found.at_least, cuts, found.unsafe >= threshold))
    try:
        score = tfidf_scores(train, rows)
        peer = {} if score is None else {(e["set"], e["kind"]): e for e in set_table(rows, score, 0.5)}
    except ImportError:
        peer = {}
    for entry in table:
        other = peer.get((entry["set"], entry["kind"]), {})
        entry |= {"tfidf_auroc": other.get("auroc"), "tfidf_f1": other.get("f1")}
    levels = levels_of(found.at_least, cuts, found.unsafe >= 0.5)
    return {
        "threshold": threshold,
        "sets": table,
        "severity": severity_table(rows, train, levels),
        "categories": category_table(rows, found.categories),
    }


def _logits(model: GuardModel, rows: Sequence[Row], watch: Watch) -> GuardLogits:
    done = 0

    def tell(more: int) -> None:
        nonlocal done
        done += more
        watch.judged(done, len(rows))

    return model.logits([(row.prompt, row.response) for row in rows], on_rows=tell)


def _work_folder(out: Path, plan: Plan) -> Path:
    work = out.with_name(f".{out.name}.work")
    path, told = work / "plan.json", json.loads(json.dumps(plan.to_json()))
    if path.is_file() and json.loads(path.read_text(encoding="utf-8")) != told:
        raise PoiseError("was begun with another plan", where=str(work), do="delete it, or choose another --out")
    work.mkdir(parents=True, exist_ok=True)
    write_json(path, told)
    return work


def _save(
    out: Path, model: GuardModel, plan: Plan, fitted: Fitted, measured: dict[str, Any], learnt: Container[str]
) -> None:
    parts = partial_folder(out)
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir(parents=True)
    try:
        model.save(parts, {"encoder": plan.model.encoder, **fitted.to_json(), "plan": plan.to_json()})
        write_json(parts / "metrics.json", measured)
        settings = json.loads((parts / "guard.json").read_text(encoding="utf-8"))
        (parts / "README.md").write_text(guard_card(settings, measured), encoding="utf-8", newline="\n")
        if SEEDS in plan.data.sets:
            write_json(parts / HELD_OUT, [row.id for row in load_seeds().prompts if row.prompt not in learnt])
        parts.rename(out)
    finally:
        shutil.rmtree(parts, ignore_errors=True)
