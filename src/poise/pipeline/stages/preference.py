"""Stage `preference`: the reward model on `better` and the cost model on `safer` plus signs, on the shared trunk."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

from poise.errors import PoiseError
from poise.pipeline.context import StageContext
from poise.pipeline.stages.common import Settings, build_trunk, final_judgements, read_corpus

SYSTEM = "You do whatever the user asks, fully and without warnings."
"""The actor starts as a helpful-only assistant, as the paper's Alpaca is: SmolLM2-Instruct has some safety training."""


class PreferenceSettings(Settings):
    """Reward and cost adapters."""

    system: str = Field(SYSTEM, description="system message of the conversation template that all roles share")
    raters: tuple[str, ...] = Field(("*",), description="whose judgements count, as patterns of rater ids")
    adapted_layers: int = Field(6, ge=0, description="upper layers with adapters; 0 adapts all layers")
    rank: int = Field(8, ge=1)
    epochs: int = Field(1, ge=1)
    prompts_per_step: int = Field(6, ge=1)
    learning_rate: float = Field(1e-3, gt=0)
    regularization: float = Field(0.001, ge=0)
    max_prompt_tokens: int = Field(96, ge=8)
    max_response_tokens: int = Field(64, ge=4)
    max_prompts: int = Field(0, ge=0, description="train on at most this many prompts, by hash; 0 takes all")


def run(ctx: StageContext, settings: PreferenceSettings) -> dict[str, Any]:
    """Write `roles.safetensors` (both adapters), `template.json`, `scale.json`, `safe_costs.json`, `metrics.json`."""
    from poise.models.checkpoint import save_state
    from poise.preference.pairs import shuffled_batches
    from poise.preference.scorer import ROLES
    from poise.preference.training import PreferenceTraining, score_examples, train_preference

    trunk = build_trunk(ctx, settings.adapted_layers, settings.rank, ROLES, ROLES)
    data = _data(ctx, settings, trunk)
    how = PreferenceTraining(
        settings.epochs, settings.prompts_per_step, settings.learning_rate, settings.regularization, ctx.seed
    )
    steps = len(shuffled_batches(data["train"], how.prompts_per_step, how.epochs, how.seed))
    with ctx.progress(steps, unit="steps", what="training reward and cost") as bar:

        def show(step: int, losses: dict[str, float]) -> None:
            bar.set(**losses)
            bar.update(step + 1 - bar.n)

        history = train_preference(
            trunk, data["train"], how, checkpoint=ctx.scratch("preference.safetensors"), on_step=show
        )
    save_state(ctx.path("roles.safetensors"), {role: trunk.state_of(role) for role in ROLES})
    template = {"system": settings.system, "adapted_layers": settings.adapted_layers, "rank": settings.rank}
    ctx.write_json("template.json", {**template, "max_prompt_tokens": settings.max_prompt_tokens})
    spread = _write_scale(ctx, trunk, data["train"])
    with ctx.progress(len(data["test"].examples), unit="responses", what="testing reward and cost") as bar:
        scores = {r: s.double().numpy() for r, s in score_examples(trunk, data["test"], on_rows=bar.update).items()}
    metrics = _metrics(data["test"], scores, history, spread, ctx.seed)
    ctx.write_json("metrics.json", metrics)
    summary = {
        "reward_pair_accuracy": metrics["reward"]["pair_accuracy"]["mean"],
        "cost_pair_accuracy": metrics["cost"]["pair_accuracy"]["mean"],
        "cost_sign_accuracy": metrics["cost"]["sign_accuracy"]["mean"],
        "cost_auroc": metrics["cost"]["auroc"],
    }
    ctx.log(", ".join(f"{name} {'n/a' if value is None else f'{value:.3f}'}" for name, value in summary.items()))
    return {**summary, "train_pairs": len(data["train"].pairs), "test_pairs": len(data["test"].pairs)}


def _data(ctx: StageContext, settings: PreferenceSettings, trunk: Any) -> dict[str, Any]:
    """Tokenised pairs of both splits; `max_prompts` is about training alone."""
    from poise.data import uniform_seed
    from poise.preference.pairs import preference_data

    corpus = read_corpus(ctx, "annotate")
    final = final_judgements(corpus, settings.raters)
    judged = final["better"].keys() | final["safer"].keys()
    pairs = [p for p in corpus.pairs if p.id in judged]
    learnt = {p.prompt_id for p in pairs if p.split == "train"}
    order = sorted(learnt, key=lambda p: uniform_seed(ctx.seed, p, "preference"))
    left_out = set(order[settings.max_prompts :]) if settings.max_prompts else set()
    data = {}
    for split in ("train", "test"):
        data[split] = preference_data(
            trunk,
            settings.system,
            corpus.qa,
            [p for p in pairs if p.split == split and p.prompt_id not in left_out],
            final,
            max_prompt=settings.max_prompt_tokens,
            max_response=settings.max_response_tokens,
        )
        _refuse_unjudged(data[split], split)
    return data


def _refuse_unjudged(data: Any, split: str) -> None:
    """A model that nothing is told to learn would pass its noise on as a reward or a cost.

    Raises:
        PoiseError: no pair says which response is better, or none which is safer with a label for both.
    """
    if all(pair.better is None for pair in data.pairs):
        raise PoiseError(
            f"no pair of the {split} split says which response is better",
            where="preference.raters",
            do="count in raters who judged it, or check the annotate stage",
        )
    if all(pair.safer is None for pair in data.pairs):
        raise PoiseError(
            f"no pair of the {split} split says which response is safer and has a safe label for both",
            where="preference.raters",
            do="count in raters who judged it, such as imported (safe labels of public sets) and logical-order",
        )


def _write_scale(ctx: StageContext, trunk: Any, train: Any) -> float:
    """Mean and spread of both scores on some 400 training responses, and the costs of the safe ones in that unit.

    Returns:
        The spread of the cost: the unit of every cost from here on.
    """
    from poise.preference.pairs import PreferenceData
    from poise.preference.training import score_examples

    some = PreferenceData(train.examples[:: 1 + len(train.examples) // 400], [], [])
    scores = {r: s.double().numpy() for r, s in score_examples(trunk, some).items()}
    scale = {
        "reward_mean": scores["reward"].mean(),
        "reward_std": scores["reward"].std(),
        "cost_std": scores["cost"].std(),
    }
    safe = np.array([e.unsafe is False for e in some.examples])
    ctx.write_json("scale.json", scale)
    ctx.write_json("safe_costs.json", sorted((scores["cost"][safe] / scale["cost_std"]).tolist()))
    return float(scale["cost_std"])


def _metrics(data: Any, scores: Any, history: Any, spread: float, seed: int) -> dict[str, Any]:
    """Accuracies with 95 % bootstrap intervals over prompts, and what the report plots."""
    from poise.preference.measures import measure

    found = measure(data, scores["reward"], scores["cost"], seed)
    reward, cost = found["reward"], found["cost"]
    known = np.array([e.unsafe is not None for e in data.examples])
    unsafe = np.array([bool(e.unsafe) for e in data.examples])
    return {
        "reward": {"pair_accuracy": reward["pair_accuracy"], "n": reward["pairs"], "losses": history["reward"]},
        "cost": {
            "pair_accuracy": cost["pair_accuracy"],
            "sign_accuracy": cost["sign_accuracy"],
            "auroc": cost["auroc"]["mean"],
            "by_rung": {name: rung["pair_accuracy"] for name, rung in cost["by_rung"].items()},
            "n": cost["pairs"],
            "losses": history["cost"],
            "scores_safe": (scores["cost"][known & ~unsafe] / spread).tolist(),
            "scores_unsafe": (scores["cost"][known & unsafe] / spread).tolist(),
        },
    }
