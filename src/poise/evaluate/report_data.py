"""What a report is made of: frozen records of plain values, JSON-able, filled by the stages of a run.

A nested record may be given as itself or as a mapping with its field names (what a stage's JSON holds); a misspelt
field is refused. A part that a run did not have stays `None` or empty. `None` and NaN both read "n/a" on the page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict
from pydantic.dataclasses import dataclass

from poise.evaluate.agreement import RaterAgreement
from poise.metrics import NAN, Interval

_STRICT = ConfigDict(extra="forbid")
Number = float | None


def _null_is_nan(value: Any) -> Any:
    """An interval of no values went through JSON, which has no NaN."""
    return {k: NAN if v is None else v for k, v in value.items()} if isinstance(value, Mapping) else value


Told = Annotated[Interval, BeforeValidator(_null_is_nan)]
"""An interval as a stage's JSON holds it."""


@dataclass(frozen=True, config=_STRICT)
class StageRow:
    """One stage of the run: wall-clock seconds, peak memory in MB, "done" or another status, its summary."""

    name: str
    seconds: Number = None
    peak_memory_mb: Number = None
    status: str = "done"
    summary: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, config=_STRICT)
class GuardRow:
    """One guard or baseline on one split: shares 0..1 over `n` items, positive = unsafe. Row 1 is the headline."""

    name: str
    split: str
    n: int
    auroc: Number = None
    f1: Number = None
    precision: Number = None
    recall: Number = None
    fpr: Number = None
    accuracy: Number = None
    severity_qwk: Number = None
    severity_macro_f1: Number = None
    exact_match: Number = None


@dataclass(frozen=True, config=_STRICT)
class Calibration:
    """Predicted probability of unsafe `[N]` and whether it was labelled unsafe `[N]`."""

    prob: list[float]
    positive: list[bool]


@dataclass(frozen=True, config=_STRICT)
class RewardPart:
    """The reward model: share of test pairs ranked as labelled, and training loss (nats) at each step."""

    pair_accuracy: Told | None = None
    n: int | None = None
    losses: list[Number] = field(default_factory=list)


@dataclass(frozen=True, config=_STRICT)
class CostPart:
    """The cost model: shares right in ranking and in sign, ranking by rung, losses, and costs by label."""

    pair_accuracy: Told | None = None
    sign_accuracy: Told | None = None
    by_rung: dict[str, Told | Number] = field(default_factory=dict)
    losses: list[Number] = field(default_factory=list)
    scores_safe: list[Number] = field(default_factory=list)
    scores_unsafe: list[Number] = field(default_factory=list)
    n: int | None = None
    auroc: Number = None


@dataclass(frozen=True, config=_STRICT)
class PreferencePart:
    """The two preference models, kept apart."""

    reward: RewardPart | None = None
    cost: CostPart | None = None


@dataclass(frozen=True, config=_STRICT)
class AlignPart:
    """Alignment by step, lists `[N]` or empty: mean reward and cost (model units), multiplier, KL (nats), violations.

    Raises:
        ValueError: a list has another length than `steps`.
    """

    steps: list[int]
    reward: list[Number] = field(default_factory=list)
    cost: list[Number] = field(default_factory=list)
    multiplier: list[Number] = field(default_factory=list)
    kl: list[Number] = field(default_factory=list)
    threshold: Number = None
    violation_rate: list[Number] = field(default_factory=list)
    seconds: dict[str, Number] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("reward", "cost", "multiplier", "kl", "violation_rate"):
            if len(getattr(self, name)) not in (0, len(self.steps)):
                raise ValueError(f"{name} has {len(getattr(self, name))} values for {len(self.steps)} steps")


@dataclass(frozen=True, config=_STRICT)
class JudgeRow:
    """One metric by one judge over the same prompts; `difference` is after - before, paired."""

    judge: str
    metric: str
    unit: str
    higher_is_better: bool
    before: Told
    after: Told
    difference: Told

    @property
    def verdict(self) -> str:
        """ "better" or "worse" when the interval of the difference excludes zero, else "unclear"."""
        if self.difference.low > 0:
            return "better" if self.higher_is_better else "worse"
        if self.difference.high < 0:
            return "worse" if self.higher_is_better else "better"
        return "unclear"


@dataclass(frozen=True, config=_STRICT)
class Quadrant:
    """(helpful, harmless) = (reward, -cost) of each response, `[N][2]`, and the prompt of each, both policies alike.

    Without `prompts` each response counts as of a prompt of its own.

    Raises:
        ValueError: `prompts` has another length than a policy has responses.
    """

    before: list[tuple[Number, Number]]
    after: list[tuple[Number, Number]]
    prompts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for points in (self.before, self.after):
            if self.prompts and len(points) != len(self.prompts):
                raise ValueError(f"{len(points)} points for {len(self.prompts)} prompts")


@dataclass(frozen=True, config=_STRICT)
class EvaluationPart:
    """The comparison of the model before and after alignment."""

    judges: list[JudgeRow] = field(default_factory=list)
    quadrant: Quadrant | None = None


@dataclass(frozen=True, config=_STRICT)
class Sample:
    """One prompt answered before and after; `harmful` folds the text away until the reader asks for it."""

    prompt: str
    kind: str
    before: str
    after: str
    before_cost: Number = None
    after_cost: Number = None
    before_reward: Number = None
    after_reward: Number = None
    harmful: bool = True


@dataclass(frozen=True, config=_STRICT)
class ReportData:
    """Everything on the page.

    Args:
        title, created, recipe_name, seed: what was run and when (text, as it is to be shown).
        versions: package -> version. settings: the recipe, nested.
        loop_counts: (stage, headline such as "312 prompts") in order.
        grid: category code -> numbers of labelled responses: [none, minor, moderate, severe] or the last three.
        preference_flow: how pair choices relate -> number of pairs.

    Raises:
        ValueError: rows of `grid` that do not all have three, or all four, numbers.
    """

    title: str
    created: str
    recipe_name: str
    seed: int
    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    stages: list[StageRow] = field(default_factory=list)
    loop_counts: list[tuple[str, str]] = field(default_factory=list)
    grid: dict[str, list[int]] = field(default_factory=dict)
    raters: list[RaterAgreement] = field(default_factory=list)
    preference_flow: dict[str, int] = field(default_factory=dict)
    guard: list[GuardRow] = field(default_factory=list)
    calibration: Calibration | None = None
    preference: PreferencePart | None = None
    align: AlignPart | None = None
    evaluation: EvaluationPart | None = None
    samples: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        widths = {len(row) for row in self.grid.values()}
        if widths not in (set(), {3}, {4}):
            raise ValueError(f"grid rows have {sorted(widths)} numbers; each needs the same 3 or 4 severity levels")
