"""A whole run: from data sets to a folder of reward and cost models that appears when it is complete.

The folder is what the online methods take as `scores`: `roles.safetensors`, `template.json`, `scale.json`,
`safe_costs.json`, beside `threshold.json`, `metrics.json` and `diagnostics.svg`. While it trains, `.<name>.training`
beside it holds the settings and the last checkpoint; the same command goes on from there after any kind of stop, and
other settings, data or weights are refused by name.
"""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from poise import __version__
from poise.data.folders import disk_error, partial_folder, write_json
from poise.data.resumable import finished, open_work, refuse_foreign, refuse_other_work, work_folder
from poise.errors import PoiseError
from poise.metrics import Floats
from poise.models.checkpoint import save_state
from poise.models.encoder import ignore
from poise.models.fingerprint import fingerprint
from poise.models.trunk import Trunk
from poise.preference.facts import Source, read_facts, source_of, thinned
from poise.preference.figure import draw
from poise.preference.judged import PARTS, Judged, count_votes, encode, share_out
from poise.preference.measures import measure
from poise.preference.normaliser import SAMPLE, fit_scale
from poise.preference.pairs import PreferenceData, planned_steps
from poise.preference.part import about
from poise.preference.recipe import PreferenceRecipe, ThresholdPart
from poise.preference.scorer import Scorer, build_trunk
from poise.preference.threshold import threshold_at_safe_quantile, threshold_for_violation_rate
from poise.preference.training import PreferenceTraining, score_examples, train_preference

METRICS = "metrics.json"
SAFE_QUANTILE = 0.25
"""Of the threshold where the recipe names no rule."""


class Watch(NamedTuple):
    """What is told while a run goes on. Args: row: rows read; step: steps done, all, losses; scored: responses; note: a
    line of text."""

    row: Callable[[int], object] = ignore
    step: Callable[[int, int, dict[str, float]], object] = lambda done, total, losses: None
    scored: Callable[[int], object] = ignore
    note: Callable[[str], object] = lambda text: None


class Rows(NamedTuple):
    """Conversations by part, and what was left out by reason."""

    parts: dict[str, list[Judged]]
    dropped: Counter[str]


def settings_of(recipe: PreferenceRecipe) -> PreferenceTraining:
    """The loop's settings from the recipe's sections."""
    r = recipe
    return PreferenceTraining(
        r.training.epochs,
        r.training.prompts_per_step,
        r.training.learning_rate,
        r.training.regularization,
        r.head.seed,
        r.training.max_tokens,
        r.reward.margin,
        r.reward.centering,
        r.cost.classification_only,
        r.cost.severity_margin,
        r.cost.severity_weight,
    )


def train_scores(
    recipe: PreferenceRecipe, data: Path, model: Path | str, out: Path, watch: Watch | None = None
) -> dict[str, Any]:
    """Train reward and cost models as a recipe says; returns what `metrics.json` holds.

    Args:
        recipe: checked.
        data: folder of the sets.
        model: what `poise.models.bundled.resolve` gives for `recipe.head.model`.
        out: the new folder; may exist where the same run made it.
        watch: what is told on the way.

    Raises:
        PoiseError: wrong input, too little of a kind in a part, a folder in use, another run, or a loss that is not
            finite (exit code 4; the last checkpoint stays).
    """
    watch = watch or Watch()
    refuse_foreign(out, METRICS, "holds no preference models")
    names = dict.fromkeys((*recipe.reward.sets, *recipe.cost.sets))
    sources = [source_of(name, data, recipe.data.formats) for name in names]
    identity = _identity(recipe, sources, model)
    if (made := finished(out, METRICS, identity, watch.note)) is not None:
        return made
    work = work_folder(out)
    try:
        refuse_other_work(work, identity)
        rows = read_rows(recipe, sources, watch)
        open_work(work, identity)
        report = _run(recipe, rows, model, work, out, identity, watch)
        shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        raise disk_error(error, out) from error
    return report


def read_rows(recipe: PreferenceRecipe, sources: list[Source], watch: Watch) -> Rows:
    """Read all sets, count votes, share the prompts out.

    Raises:
        PoiseError: a part has no pair, or its labels are all of one class.
    """
    dropped: Counter[str] = Counter()
    facts = []
    for source in sources:
        helps, harms = source.name in recipe.reward.sets, source.name in recipe.cost.sets
        use = "both" if helps and harms else "reward" if helps else "cost"
        read = read_facts(source, use, dropped, watch.row)
        found = [fact for row in read if (fact := about(row, recipe.cost.part, dropped)) is not None]
        facts += thinned(found, recipe.data.rows, recipe.head.seed)
    judged = count_votes(facts, dropped)
    parts = share_out(judged, recipe.data.test_share, recipe.data.validation_share, recipe.head.seed)
    for part in PARTS:
        _check(part, parts[part], dropped)
    return Rows(parts, dropped)


def _check(part: str, judged: list[Judged], dropped: Counter[str]) -> None:
    choices = [choice for entry in judged for choice in entry.choices]
    labels = [answer.unsafe for entry in judged for answer in entry.answers if answer.unsafe is not None]
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in dropped.most_common(5)) or "none"
    do = f"give more or other sets, or other shares (left out: {reasons})"
    if part != "validation" and all(choice.better is None for choice in choices):
        raise PoiseError("no pair says which response is better", where=f"{part} part, reward.sets", do=do)
    if len(set(labels)) < 2:
        said = "no response has a label" if not labels else f"all {len(labels):,} labels are one class"
        kind = "" if not labels else f" ({'unsafe' if labels[0] else 'safe'})"
        raise PoiseError(f"{said}{kind}", where=f"{part} part, cost.sets", do=do)


def _run(
    recipe: PreferenceRecipe,
    rows: Rows,
    model: Path | str,
    work: Path,
    out: Path,
    identity: dict[str, Any],
    watch: Watch,
) -> dict[str, Any]:
    training, started = recipe.training, time.perf_counter()
    trunk = build_trunk(
        model,
        shared=training.shared_adapter,
        adapted_layers=training.adapted_layers,
        rank=training.rank,
        seed=recipe.head.seed,
    )
    cut: Counter[str] = Counter()
    limits = (recipe.data.max_prompt_tokens, recipe.data.max_response_tokens)
    data = {part: encode(trunk, rows.parts[part], recipe.head.system, *limits, cut) for part in PARTS}
    counts = {part: _counts(data[part]) for part in PARTS}
    watch.note("; ".join(f"{part}: {_words(count)}" for part, count in counts.items()))
    settings = settings_of(recipe)
    total = len(planned_steps(data["train"], settings.prompts_per_step, settings.epochs, settings.seed))
    began: list[int] = []  # the step that this sitting began with

    def on_step(step: int, losses: dict[str, float]) -> None:
        if not began:
            began.append(step)
        watch.step(step + 1, total, losses)

    history = train_preference(
        trunk,
        data["train"],
        settings,
        checkpoint=work / "checkpoint.safetensors",
        checkpoint_every=training.checkpoint_every,
        on_step=on_step,
    )
    trained = time.perf_counter()
    scored = _scored(trunk, data, settings.max_tokens, watch)
    seconds = {
        "from_step": (began or [total])[0],
        "training": round(trained - started, 1),
        "scoring": round(time.perf_counter() - trained, 1),
    }
    report = _report(recipe, rows, data, history, scored, identity)
    report |= {"parts": counts, "cut": dict(cut), "seconds": seconds}
    _write(recipe, trunk, data, scored, report, out)
    return report


def _report(
    recipe: PreferenceRecipe,
    rows: Rows,
    data: dict[str, PreferenceData],
    history: dict[str, list[float]],
    scored: dict[str, dict[str, Floats]],
    identity: dict[str, Any],
) -> dict[str, Any]:
    scale = fit_scale(*(scored["train"][role] for role in ("reward", "cost")))
    return {
        "identity": identity,
        "cost_speaks_of": recipe.cost.part.words,
        "poise_version": __version__,
        "dropped": dict(rows.dropped.most_common()),
        "padding_share": sum(history["padding"]) / max(1.0, sum(history["tokens"])),
        "scale": scale,
        "threshold": _threshold(recipe.threshold, data["validation"], scored["validation"]["cost"] / scale["cost_std"]),
        "test": measure(data["test"], scored["test"]["reward"], scored["test"]["cost"], recipe.head.seed),
        "losses": {role: [None if math.isnan(x) else x for x in history[role]] for role in ("reward", "cost")},
    }


def _scored(
    trunk: Trunk, data: dict[str, PreferenceData], max_tokens: int, watch: Watch
) -> dict[str, dict[str, Floats]]:
    """Raw scores of a sample of training responses, and of all others."""
    train = data["train"].examples
    some = PreferenceData(train[:: 1 + len(train) // SAMPLE], [], [])
    out = {}
    for part, rows in (("train", some), ("validation", data["validation"]), ("test", data["test"])):
        found = score_examples(trunk, rows, max_tokens=max_tokens, on_rows=watch.scored)
        out[part] = {role: scores.double().numpy() for role, scores in found.items()}
    return out


def _threshold(rule: ThresholdPart, validation: PreferenceData, costs: Floats) -> dict[str, Any]:
    """The limit that the rule gives, in spreads, and the rule."""
    known, unsafe = _labels(validation)
    if rule.violation_rate is not None:
        value = threshold_for_violation_rate(costs[known], unsafe, rule.violation_rate)
        return {"threshold": value, "rule": "violation_rate", "value": rule.violation_rate, "responses": len(unsafe)}
    quantile = SAFE_QUANTILE if rule.safe_quantile is None else rule.safe_quantile
    value = threshold_at_safe_quantile(costs[known], unsafe, quantile)
    return {"threshold": value, "rule": "safe_quantile", "value": quantile, "responses": len(unsafe)}


def _write(
    recipe: PreferenceRecipe,
    trunk: Trunk,
    data: dict[str, PreferenceData],
    scored: dict[str, dict[str, Floats]],
    report: dict[str, Any],
    out: Path,
) -> None:
    scale = report["scale"]
    partial = partial_folder(out)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    template = {
        "system": recipe.head.system,
        "adapted_layers": recipe.training.adapted_layers,
        "rank": recipe.training.rank,
        "max_prompt_tokens": recipe.data.max_prompt_tokens,
        "model": recipe.head.model,
        "shared_adapter": recipe.training.shared_adapter,
    }
    if not recipe.cost.part.whole:
        template["speaks_of"] = recipe.cost.part.words
    known, unsafe = _labels(data["validation"])
    safe_costs = scored["validation"]["cost"][known][~unsafe] / scale["cost_std"]
    try:
        save_state(partial / "roles.safetensors", Scorer(trunk).states())
        write_json(partial / "template.json", template)
        write_json(partial / "scale.json", scale)
        write_json(partial / "safe_costs.json", sorted(safe_costs.tolist()))
        write_json(partial / "threshold.json", report["threshold"])
        known, unsafe = _labels(data["test"])
        costs = scored["test"]["cost"][known] / scale["cost_std"]
        part = "" if recipe.cost.part.whole else recipe.cost.part.words
        draw(partial / "diagnostics.svg", report["test"], costs, unsafe, report["threshold"]["threshold"], part)
        write_json(partial / METRICS, report)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _labels(data: PreferenceData) -> tuple[Any, Any]:
    """bool[N], which examples have a label, and bool[K], which of those are unsafe."""
    known = np.array([e.unsafe is not None for e in data.examples], dtype=bool)
    return known, np.array([e.unsafe for e in data.examples if e.unsafe is not None], dtype=bool)


def _counts(data: PreferenceData) -> dict[str, int]:
    labels = [e.unsafe for e in data.examples if e.unsafe is not None]
    return {
        "prompts": len(data.prompts),
        "responses": len(data.examples),
        "reward_pairs": sum(p.better is not None for p in data.pairs),
        "cost_pairs": sum(p.safer is not None for p in data.pairs),
        "safe": labels.count(False),
        "unsafe": labels.count(True),
        "labels_alone": sum(map(len, data.alone)),
    }


def _words(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in counts.items())


def _identity(recipe: PreferenceRecipe, sources: list[Source], model: Path | str) -> dict[str, Any]:
    """What makes two runs the same: the recipe, the data and the weights."""
    from transformers import AutoConfig

    revision = getattr(AutoConfig.from_pretrained(model), "_commit_hash", None) if isinstance(model, str) else None
    return recipe.model_dump(mode="json") | {
        "data_sha256": {source.name: source.sha256() for source in sources},
        "model": fingerprint(model, revision),
    }
