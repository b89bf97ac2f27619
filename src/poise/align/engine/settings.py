"""Numbers of the training loop that are no method's."""

from __future__ import annotations

from typing import NamedTuple


class LoopSettings(NamedTuple):
    """Args: rates of actor and critics, how many prompts make a rollout, passes over it, rows of near-equal
    length computed together (no effect on the result), clips as published. The critics' rate, both clips and
    `center_advantages` speak of methods with critics; the others bring their clip."""

    steps: int
    prompts_per_step: int
    responses_per_prompt: int
    max_new_tokens: int
    temperature: float
    actor_learning_rate: float
    critic_learning_rate: float
    updates_per_rollout: int
    rows_per_batch: int
    ratio_clip: float
    value_clip: float
    center_advantages: bool
    seed: int
