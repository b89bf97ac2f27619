"""A whole run: from a recipe to a folder that appears when it is complete.

While it trains, `.<name>.training` beside the folder holds the settings, the reference's log-probabilities and the last
checkpoint. The same command goes on from there after any kind of stop; other settings, rows or weights are refused by
name. The report tells versions and settings, never the environment of the process.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from poise.align.engine.processes import by_first, world
from poise.align.train.batches import Encoded, Store, encode_pairs
from poise.align.train.curves import draw_curves
from poise.align.train.data import Pairs, chosen_rows, is_held_out, read_pairs
from poise.align.train.folders import (
    Watch,
    about,
    cant_be_written,
    shown,
    write_run,
)
from poise.align.train.methods import SACPOOptions
from poise.align.train.offline import OfflineTraining, Phase
from poise.align.train.phases import ROLES, Job, phases_of
from poise.align.train.policies import REPORT, policy_of
from poise.align.train.recipe import Recipe
from poise.align.train.scoring import open_scores, score_pairs
from poise.data.resumable import finished, open_work, refuse_foreign, work_folder
from poise.errors import PoiseError
from poise.models.bundled import resolve
from poise.models.fingerprint import fingerprint
from poise.models.recompute import recompute_layers
from poise.models.separate import SeparateModels
from poise.models.trunk import Trunk


class Rows(NamedTuple):
    """What became of the rows. Args: read, as texts; encoded, those that are used; is_held_out, of each of these."""

    read: Pairs
    encoded: Encoded
    is_held_out: list[bool]

    @property
    def left_out(self) -> list[tuple[str, str]]:
        """(rule, place) of every row that is not used."""
        return [*self.read.left_out, *self.encoded.left_out]


def train_offline(recipe: Recipe, out: Path, watch: Watch | None = None) -> dict[str, Any]:
    """Train by an offline method; returns what `report.json` holds.

    Args:
        recipe: of an offline method.
        out: the run folder; must not exist, unless the same run made it.
        watch: what is told on the way.

    Raises:
        PoiseError: wrong input, rows that lack what the method needs, another run's folder, a loss that is not finite
            (exit code 4) or a full disk (3); both leave the last good checkpoint.
    """
    watch = watch or Watch()
    refuse_foreign(out, REPORT, "is no run of `poise align train`")
    data = recipe.data
    read = read_pairs(
        data.paths, form=data.format, system=recipe.head.system, on_row=lambda n: watch.rows("reading", n)
    )
    source = resolve(recipe.head.model)
    trunk = _trunk(recipe, source)
    identity = recipe.settings() | {
        "data_sha256": read.sha256,
        "model": fingerprint(source, getattr(trunk.model.config, "_commit_hash", None)),
    }
    if recipe.head.scores is not None:
        identity["scores"] = open_scores(Path(recipe.head.scores)).digest()
    if (report := finished(out, REPORT, identity, watch.note)) is not None:
        return report
    work, rows = work_folder(out), _rows(recipe, trunk, read, watch)
    job = _job(recipe, trunk, rows, work, watch)
    phases = phases_of(job)
    watch.note(f"{rows.is_held_out.count(False):,} pairs to train on, {rows.is_held_out.count(True):,} held out")
    if (
        batches := -(-recipe.parts["training"].pairs_per_step // recipe.parts["training"].pairs_per_batch)
    ) < world().size:
        watch.note(f"{batches} batches a step for {world().size} processes: lower training.pairs_per_batch")
    try:
        by_first(lambda: open_work(work, identity))
        return _run(job, phases, rows, out, identity, watch)
    except OSError as error:
        raise cant_be_written(error, work) from error


def _trunk(recipe: Recipe, source: Path | str) -> Trunk:
    """One model with adapters for the method's roles, or a whole model for each."""
    roles, adapter = ROLES.get(recipe.method.name, ("actor",)), recipe.parts["adapter"]
    trunk: Trunk
    if adapter is None:
        trunk = SeparateModels(dict.fromkeys(roles, source), seed=recipe.head.seed)
    else:
        shared = _shared_layers(source, adapter.adapted_layers)
        trunk = Trunk(source, roles=roles, shared_layers=shared, rank=adapter.rank, seed=recipe.head.seed)
    if recipe.parts["training"].gradient_checkpointing:
        recompute_layers(trunk)
    return trunk


def _shared_layers(source: Path | str, wanted: int | None) -> int:
    from transformers import AutoConfig

    shared = 0
    if wanted is not None:
        try:
            layers = AutoConfig.from_pretrained(source).get_text_config().num_hidden_layers
        except (OSError, ValueError, KeyError):
            layers = wanted  # the trunk says what is wrong with the model
        if wanted > layers:
            what = f"adapted_layers is {wanted}, the model has {layers} layers"
            raise PoiseError(what, where="adapter", do="give fewer")
        shared = layers - wanted
    return shared


def _rows(recipe: Recipe, trunk: Trunk, read: Pairs, watch: Watch) -> Rows:
    data, seed = recipe.data, recipe.head.seed
    texts = chosen_rows(read.pairs, data.rows, seed)
    on_row: Callable[[int], object] = lambda n: watch.rows("encoding", n)  # noqa: E731
    encoded = encode_pairs(trunk, texts, data.max_prompt_tokens, data.max_response_tokens, on_row)
    held_out = [is_held_out(pair.text.prompt, data.held_out, seed) for pair in encoded.pairs]
    if all(held_out) or (data.held_out and not any(held_out)):
        raise PoiseError(
            f"{held_out.count(False):,} pairs to train on, {held_out.count(True):,} held out",
            where="data",
            do="give more rows or another data.held_out (0 holds none out)",
        )
    return Rows(read, encoded, held_out)


def _job(recipe: Recipe, trunk: Trunk, rows: Rows, work: Path, watch: Watch) -> Job:
    pairs = rows.encoded.pairs
    store = Store(trunk, pairs, work, recipe.parts["training"].cache_mb * 2**20, lambda n: watch.rows("reference", n))

    def scores() -> tuple[Tensor, Tensor]:
        head, texts = recipe.head, [pair.text for pair in pairs]
        return score_pairs(Path(head.scores or ""), head.model, texts, work, lambda n: watch.rows("scoring", n))

    return Job(recipe, trunk, store, rows.is_held_out, scores, {})


def _run(
    job: Job, phases: list[Phase], rows: Rows, out: Path, identity: dict[str, Any], watch: Watch
) -> dict[str, Any]:
    recipe, trunk, work = job.recipe, job.trunk, work_folder(out)

    def on_step(phase: str, done: int, total: int, loss: float) -> None:
        if done and training.history and training.history[-1]["step"] == done:
            row = {key: value for key, value in training.history[-1].items() if key not in ("phase", "step")}
            show({"step": len(training.history), **row})
        watch.step(phase, done, total, loss)

    training = OfflineTraining(
        trunk,
        phases,
        recipe.parts["training"],
        recipe.head.seed,
        checkpoint=work / "checkpoint.safetensors",
        on_step=on_step,
        on_rows=lambda n: watch.rows("evaluating", n),
    )
    with shown(recipe, work, watch) as show:
        training.run()
    policy = policy_of(trunk, recipe.part(SACPOOptions).merge if recipe.method.name == "sacpo" else None)
    report = _report(recipe, training, rows, identity, job.facts) | policy.told
    history, looks = training.history, training.evaluations

    def draw(folder: Path) -> None:
        draw_curves(folder / "curves.svg", history, looks)

    write_run(out, recipe, trunk, policy, history, rows.left_out, report, draw)
    return report


def _report(
    recipe: Recipe, training: OfflineTraining, rows: Rows, identity: dict[str, Any], facts: dict[str, Any]
) -> dict[str, Any]:
    pairs, places = rows.encoded.pairs, training.tokens + training.padding
    return about(recipe, identity) | {
        "rows": {
            "train": rows.is_held_out.count(False),
            "held_out": rows.is_held_out.count(True),
            "prompts_cut": sum(pair.prompt_cut for pair in pairs),
            "responses_cut": sum(pair.responses_cut for pair in pairs),
            "left_out": dict(Counter(rule for rule, _ in rows.left_out).most_common()),
        },
        "found": facts,
        "evaluations": training.evaluations,
        "steps": len(training.history),
        "last_step": training.history[-1],
        "processes": world().size,
        "seconds": round(training.seconds, 2),
        "pairs_per_second": round(training.items / training.seconds, 3),
        "padding_share": round(training.padding / places, 4),
    }
