"""Stage `align`: PPO-Lagrangian on the shared trunk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from poise.errors import PoiseError
from poise.pipeline.context import StageContext
from poise.pipeline.stages.common import Settings, build_trunk, read_corpus

if TYPE_CHECKING:
    from poise.align.engine.settings import LoopSettings

ROLES = ("actor", "reward", "cost", "reward_critic", "cost_critic")


class MultiplierSettings(Settings):
    """The published rule: ln lambda <- ln lambda + lr lambda (mean cost - threshold).

    The published threshold 0 is a placeholder that has to fit the cost model at hand. By default it is a quantile of
    the cost of responses labelled safe: 0.25 asks for a mean cost as low as that of the safest quarter of them.
    """

    threshold: float | None = Field(
        None, description="mean cost allowed, in spreads of the cost model; minus the paper's d"
    )
    threshold_quantile: float = Field(0.25, ge=0, le=1, description="used when threshold is not given")
    initial: float = Field(1.0, gt=0)
    lr: float = Field(0.1, gt=0)
    maximum: float = Field(5.0, gt=0)
    window: int = Field(128, ge=1)
    delay: int = Field(0, ge=0)


class AlignSettings(Settings):
    """Constants of the algorithm and of the loop."""

    algorithm: Literal["ppo-lagrangian"] = "ppo-lagrangian"
    multiplier: MultiplierSettings = MultiplierSettings()
    steps: int = Field(20, ge=1)
    prompts_per_step: int = Field(12, ge=1)
    responses_per_prompt: int = Field(4, ge=1, description="of one prompt in a step; the paper has 1")
    max_new_tokens: int = Field(32, ge=4)
    temperature: float = Field(1.0, gt=0)
    kl: float = Field(0.02, ge=0)
    gae_lambda: float = Field(1.0, ge=0, le=1, description="0.95 in the paper, for 512 tokens; here responses have 32")
    actor_learning_rate: float = Field(2e-3, gt=0)
    critic_learning_rate: float = Field(5e-4, gt=0)
    updates_per_rollout: int = Field(1, ge=1)
    rows_per_batch: int = Field(24, ge=1, description="computed together; no effect on the result")
    ratio_clip: float = Field(0.2, gt=0)
    value_clip: float = Field(5.0, gt=0)
    center_advantages: bool = Field(True, description="subtract the mean over a prompt's responses (not in the paper)")
    checkpoint_every: int = Field(5, ge=1)
    seed: int | None = Field(None, ge=0, lt=2**63, description="of the rollouts; the recipe's if not given")

    @model_validator(mode="after")
    def _centring_needs_siblings(self) -> Self:
        if self.center_advantages and self.responses_per_prompt < 2:
            raise ValueError("center_advantages with one response per prompt: all advantages would be zero; unset it")
        return self


def run(ctx: StageContext, settings: AlignSettings) -> dict[str, Any]:
    """Write `actor.safetensors`, `history.json` and `threshold.json`; continues from the last checkpoint."""
    import json

    from poise.align.algorithms.ppo_lagrangian import PPOLagrangian
    from poise.align.engine.local import LocalLoop
    from poise.align.engine.rollout import ScoreScale
    from poise.align.multiplier import LogMultiplier
    from poise.models.checkpoint import load_state, save_state
    from poise.models.generate import chat_ids
    from poise.preference.pairs import conversation

    preference = ctx.input("preference")
    template = json.loads((preference / "template.json").read_text())
    trunk = build_trunk(ctx, template["adapted_layers"], template["rank"], ROLES, ROLES[1:])
    roles = load_state(preference / "roles.safetensors") or {}
    for role in ("reward", "cost"):
        trunk.load_role(role, roles[role])
    prompts = [
        (row.id, chat_ids(trunk, conversation(template["system"], row.prompt))[-template["max_prompt_tokens"] :])
        for row in read_corpus(ctx, "annotate").prompts
        if row.split == "train"
    ]
    s = settings
    constraint = s.multiplier.model_dump(exclude={"threshold", "threshold_quantile"})
    threshold = _threshold(ctx, s.multiplier, json.loads((preference / "safe_costs.json").read_text()))
    loop = LocalLoop(
        trunk,
        prompts,
        PPOLagrangian(kl=s.kl, lam=s.gae_lambda),
        LogMultiplier(threshold=threshold, **constraint),
        ScoreScale(**json.loads((preference / "scale.json").read_text())),
        _loop_settings(s, ctx.seed),
    )
    with ctx.progress(s.steps, unit="steps", what="aligning") as bar:

        def show(row: dict[str, float]) -> None:
            bar.set(**{name: row[name] for name in ("reward", "cost", "multiplier", "kl")})
            bar.update(int(row["step"]) + 1 - bar.n)
            ctx.event("align-step", **row)

        history = loop.run(
            checkpoint=ctx.scratch("align.safetensors"), checkpoint_every=s.checkpoint_every, on_step=show
        )
    save_state(ctx.path("actor.safetensors"), trunk.state_of("actor"))
    timing = ("seconds_rollout", "seconds_scoring", "seconds_update")
    ctx.write_json("history.json", [{k: v for k, v in row.items() if k not in timing} for row in history])
    ctx.write_json("threshold.json", threshold)
    first, last = history[0], history[-1]
    ctx.log(f"cost {first['cost']:.2f} -> {last['cost']:.2f}, reward {first['reward']:.2f} -> {last['reward']:.2f}")
    return {
        "steps": len(history),
        "first": {k: first[k] for k in ("reward", "cost", "violation_rate")},
        "last": {k: last[k] for k in ("reward", "cost", "violation_rate", "multiplier", "kl")},
        "seconds": {k: sum(row[k] for row in history) for k in timing},
    }


def _loop_settings(settings: AlignSettings, seed: int) -> LoopSettings:
    """The stage's numbers for the loop. Args: seed, of the recipe."""
    from poise.align.engine.settings import LoopSettings

    found = LoopSettings(**{name: getattr(settings, name) for name in LoopSettings._fields})
    return found if settings.seed is not None else found._replace(seed=seed)


def _threshold(ctx: StageContext, settings: MultiplierSettings, safe_costs: list[float]) -> float:
    """The constraint's threshold: as given, else the quantile of the costs of responses labelled safe.

    Raises:
        PoiseError: none is given, and no response is labelled safe.
    """
    if settings.threshold is not None:
        return settings.threshold
    if not safe_costs:
        raise PoiseError(
            "no response is labelled safe, so there is no quantile of safe costs to take as the threshold",
            where="align.multiplier.threshold_quantile",
            do="give align.multiplier.threshold",
        )
    threshold = float(np.quantile(safe_costs, settings.threshold_quantile))
    ctx.log(f"threshold {threshold:.3f}: quantile {settings.threshold_quantile} of {len(safe_costs)} safe costs")
    return threshold
