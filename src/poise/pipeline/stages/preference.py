"""Stage `preference`: the reward model on `better` and the cost model on `safer` plus signs, on the shared trunk."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import Field

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
    ctx.log(", ".join(f"{name} {value:.3f}" for name, value in summary.items()))
    return {**summary, "train_pairs": len(data["train"].pairs), "test_pairs": len(data["test"].pairs)}


def _data(ctx: StageContext, settings: PreferenceSettings, trunk: Any) -> dict[str, Any]:
    """Tokenised pairs of both splits."""
    from poise.data import uniform_seed
    from poise.errors import PoiseError
    from poise.preference.pairs import preference_data

    corpus = read_corpus(ctx, "annotate")
    final = final_judgements(corpus, settings.raters)
    judged = final["better"].keys() | final["safer"].keys()
    pairs = [p for p in corpus.pairs if p.id in judged]
    prompts = sorted({p.prompt_id for p in pairs}, key=lambda p: uniform_seed(ctx.seed, p, "preference"))
    kept = set(prompts[: settings.max_prompts or None])
    data = {}
    for split in ("train", "test"):
        data[split] = preference_data(
            trunk,
            settings.system,
            corpus.qa,
            [p for p in pairs if p.split == split and p.prompt_id in kept],
            final,
            max_prompt=settings.max_prompt_tokens,
            max_response=settings.max_response_tokens,
        )
        if not data[split].pairs:
            raise PoiseError(f"no judged pair in the {split} split", where="preference", do="check the annotate stage")
    return data


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
    """Accuracies with 95 % bootstrap intervals, and what the report plots."""
    from poise.metrics import auroc, bootstrap_mean
    from poise.preference.diagnostics import diagnose

    d = diagnose(data, scores["reward"], scores["cost"])
    known = np.array([e.unsafe is not None for e in data.examples])
    unsafe = np.array([bool(e.unsafe) for e in data.examples])
    return {
        "reward": {
            "pair_accuracy": bootstrap_mean(d.reward_pairs, seed)._asdict(),
            "n": len(d.reward_pairs),
            "losses": history["reward"],
        },
        "cost": {
            "pair_accuracy": bootstrap_mean(d.cost_pairs, seed)._asdict(),
            "sign_accuracy": bootstrap_mean(d.signs, seed)._asdict(),
            "auroc": auroc(scores["cost"][known], unsafe[known]),
            "by_rung": {name: bootstrap_mean(hits, seed)._asdict() for name, hits in d.by_rung.items()},
            "n": len(d.cost_pairs),
            "losses": history["cost"],
            "scores_safe": (scores["cost"][known & ~unsafe] / spread).tolist(),
            "scores_unsafe": (scores["cost"][known & unsafe] / spread).tolist(),
        },
    }
