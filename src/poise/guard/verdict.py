"""What any guard says of a prompt or a prompt-response pair, and the seam behind which guards are exchanged.

Three states: unsafe, safe, unjudged. Whatever was not understood is unjudged with its reason, never safe. A guard that
speaks another category set is read in ours through its crosswalk: what that sets, what it excludes and what it leaves
open are kept apart, with the lossy cells that were used. What is left out: thresholds and actions, which belong to
whoever serves a verdict.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from poise.errors import PoiseError
from poise.harm import CATEGORIES, PKU, Category, Cell, Severity, load_crosswalk, severity_levels, translate
from poise.harm.taxonomy import load_taxonomy

Item = tuple[str, str | None]
"""(prompt, response); without a response the prompt itself is judged."""

_ALL = frozenset(CATEGORIES)


@dataclass(frozen=True)
class Verdict:
    """One guard's answer about one item; make one with `judged` or `unjudged`.

    `categories` (when not None), `absent` and `undecided` share out the 19, as `poise.harm.Translation` says.

    Args:
        unsafe: None when unjudged.
        reason: why it is unjudged, None when it is judged.
        probability: P(unsafe) in [0, 1], uncalibrated; None where the guard tells none.
        severities: the levels of ours that the guard's own level may stand for, mildest first; () when it tells none.
        severity_probabilities: P(severity 0..3), where the guard predicts them.
        category_probabilities: P(category) of the 19 in card order, where the guard predicts them.
        categories: of the 19, those known to apply; empty when safe, None when unsafe and none can be named.
        absent, undecided: of the 19, known not to apply, and unknown.
        lossy: cells of the crosswalk that were used and are no near-equivalence.
        taxonomy: that of `named`, None when it has no crosswalk.
        named: the guard's own category names.
        level: the guard's own level or tier, as it writes it.
        refusal: whether the response is a refusal, where the guard tells.
        prompt_unsafe: whether the prompt is harmful by itself, where the guard tells it beside the response.
        strict: how a middle tier was read: True as unsafe, False as safe; None for guards without one.
        tiers: P(tier) by name, where a guard has tiers and its probabilities are known.
        details: what else it tells, such as a confidence or a rationale.
        raw: its answers as they came.

    Raises:
        ValueError: the fields contradict each other.
    """

    unsafe: bool | None = None
    reason: str | None = None
    probability: float | None = None
    severities: tuple[Severity, ...] = ()
    severity_probabilities: tuple[float, float, float, float] | None = None
    category_probabilities: tuple[float, ...] | None = None
    categories: frozenset[Category] | None = None
    absent: frozenset[Category] = frozenset()
    undecided: frozenset[Category] = _ALL
    lossy: tuple[Cell, ...] = ()
    taxonomy: str | None = None
    named: tuple[str, ...] = ()
    level: str | None = None
    refusal: bool | None = None
    prompt_unsafe: bool | None = None
    strict: bool | None = None
    tiers: Mapping[str, float] | None = field(default=None, hash=False)
    details: Mapping[str, str] = field(default_factory=dict, hash=False)
    raw: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.unsafe is None) == (self.reason is None):
            raise ValueError(f"unsafe {self.unsafe} with reason {self.reason!r}: a reason says why there is no verdict")
        if self.unsafe is not True and self.categories:
            raise ValueError("categories without an unsafe verdict")
        if self.probability is not None and not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"probability {self.probability} is outside 0..1")
        told = self.category_probabilities
        if told is not None and not (len(told) == len(CATEGORIES) and all(0.0 <= p <= 1.0 for p in told)):
            raise ValueError(f"category probabilities {told} are not {len(CATEGORIES)} within 0..1")

    @property
    def severity(self) -> Severity | None:
        """The one level that the guard's own stands for, None when it tells none or may mean several."""
        return self.severities[0] if len(self.severities) == 1 else None

    def at(self, *, strict: bool) -> Verdict:
        """The same answer with its middle tier read the other way; guards without one give the same verdict."""
        if self.strict is None or self.unsafe is None or self.level is None or strict == self.strict:
            return self
        return tiered(self, self.level, strict=strict)

    def to_json(self) -> dict[str, Any]:
        """What is known of it as JSON values, for the provenance of a judgement; without texts that were judged."""
        told: dict[str, Any] = {
            "reason": self.reason,
            "probability": self.probability,
            "severities": [level.label for level in self.severities],
            "taxonomy": self.taxonomy,
            "named": list(self.named),
            "undecided": codes(self.undecided) if self.unsafe else [],
            "lossy": [f"{c.source} {c.relation} {c.target}" for c in self.lossy],
            "level": self.level,
            "refusal": self.refusal,
            "prompt_unsafe": self.prompt_unsafe,
            "strict": self.strict,
            "tiers": None if self.tiers is None else dict(self.tiers),
            "details": dict(self.details),
            "raw": list(self.raw),
        }
        return {name: value for name, value in told.items() if value not in (None, [], {})}


class Guard(Protocol):
    """Anything that judges items in batches: a bundled encoder, a model behind an endpoint, an ensemble."""

    name: str

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """One verdict an item, in order.

        Raises:
            GuardGoneError: it can't be asked at all.
        """
        ...


class GuardGoneError(PoiseError):
    """A guard that can't be asked at all, such as one whose servers are down for good or refuse its key.

    Args:
        error: what ended it.
        verdicts: one an item all the same, in order; unjudged where it gave none before it went.
    """

    def __init__(self, error: PoiseError, verdicts: Sequence[Verdict]) -> None:
        super().__init__(error.what, where=error.where, do=error.do, exit_code=error.exit_code)
        self.verdicts = list(verdicts)


def unjudged(reason: str, *raw: str) -> Verdict:
    """No verdict, and why."""
    return Verdict(reason=reason, raw=raw)


def judged(
    unsafe: bool,
    *,
    taxonomy: str | None = None,
    named: Iterable[str] = (),
    known: Iterable[str] | None = None,
    severities: tuple[Severity, ...] | None = None,
    **told: Any,
) -> Verdict:
    """A verdict with its categories read in ours.

    Args:
        unsafe: the guard's own word.
        taxonomy: what the names belong to; None when no crosswalk knows them.
        named: categories that the guard flags, by code or name.
        known: categories of `taxonomy` that it looked at, None for what the taxonomy itself says.
        severities: as `Verdict`; a safe verdict is severity none without saying.
        told: further fields of `Verdict`.

    Raises:
        PoiseError: the taxonomy has no such category; its caller checks first.
    """
    names = tuple(named)
    levels = (severities or ()) if unsafe else (Severity.NONE,)
    told |= {"unsafe": unsafe, "severities": levels, "taxonomy": taxonomy, "named": names}
    if taxonomy is None:
        return Verdict(categories=None if unsafe else frozenset(), undecided=_ALL, **told)
    if taxonomy == PKU:
        found = frozenset(map(Category.parse, names)) if unsafe else frozenset()
        sure = bool(names) or not unsafe
        return Verdict(
            categories=found if sure else None,
            absent=_ALL - found if sure else frozenset(),
            undecided=frozenset() if sure else _ALL,
            **told,
        )
    told["named"] = tuple(map(load_taxonomy(taxonomy).parse, names))
    flagged: tuple[str, ...] | None = told["named"] if unsafe else ()
    moved = translate(flagged or (None if unsafe else ()), load_crosswalk(taxonomy, PKU), known=known)
    return Verdict(
        categories=_ours(moved.categories) if unsafe and moved.categories else None if unsafe else frozenset(),
        absent=_ours(moved.absent),
        undecided=_ours(moved.undecided),
        lossy=moved.lossy,
        **told,
    )


def tiered(verdict: Verdict, tier: str, *, strict: bool) -> Verdict:
    """A verdict of Safe, Controversial or Unsafe; the middle tier is unsafe when `strict`.

    Args:
        verdict: holds the names, the tiers' probabilities and the texts; everything else is worked out anew.
        tier: one of the three.
    """
    unsafe = tier == "Unsafe" or (tier == "Controversial" and strict)
    probability = None
    if verdict.tiers is not None:
        probability = min(1.0, verdict.tiers["Unsafe"] + (verdict.tiers["Controversial"] if strict else 0.0))
    made = judged(
        unsafe,
        taxonomy=verdict.taxonomy,
        named=verdict.named,
        severities=severity_levels("qwen3guard", tier),
        probability=probability,
        level=tier,
        strict=strict,
    )
    kept = ("refusal", "prompt_unsafe", "tiers", "details", "raw")
    return replace(made, **{name: getattr(verdict, name) for name in kept})


def codes(categories: Iterable[Category]) -> list[str]:
    """Codes in card order."""
    return [category.code for category in sorted(categories, key=lambda c: c.index)]


def _ours(names: Iterable[str] | None) -> frozenset[Category]:
    return frozenset(map(Category.parse, names or ()))
