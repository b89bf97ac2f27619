"""What a finished request says: a label or a choice, or why there is none. Only an answer that was given counts.

A refusal, a filtered or cut answer, one that is no JSON, no answer at all, and a label that contradicts itself are
unjudged with their reason. Nothing is mended, and nothing that is missing is safe.
"""

from __future__ import annotations

from dataclasses import dataclass

from poise.annotate.ai.probabilities import value_probabilities
from poise.annotate.ai.rubrics import CHOICES, SEVERITIES
from poise.harm import Label
from poise.llm.store import Exchange


@dataclass(frozen=True)
class Verdict:
    """What one answer says.

    Args:
        label: of a QA pair.
        choice: position (0 shown first, 1 shown second) of the response chosen.
        analysis: the model's own words.
        probabilities: P(severity 0..3), or P(position 0, 1); None where the server does not tell.
        reason: why it is unjudged: "refused", "filtered", "truncated", "invalid", "dead: <kind of fault>",
            "contradiction".
    """

    label: Label | None = None
    choice: int | None = None
    analysis: str | None = None
    probabilities: tuple[float, ...] | None = None
    reason: str | None = None


def read_label(exchange: Exchange) -> Verdict:
    """The label of a QA pair; unjudged when it breaks safe <=> severity 0 <=> no category ("contradiction")."""
    reason = unjudged_reason(exchange)
    if reason is not None or exchange.reply is None:
        return Verdict(reason=reason)
    told = exchange.value
    probabilities = value_probabilities(exchange.reply, "severity", SEVERITIES)
    try:
        label = Label.of(told["categories"], int(told["severity"]))
    except ValueError:
        return Verdict(analysis=told["analysis"], probabilities=probabilities, reason="contradiction")
    return Verdict(label=label, analysis=told["analysis"], probabilities=probabilities)


def read_choice(exchange: Exchange) -> Verdict:
    """Which of the two responses, by position, was chosen."""
    reason = unjudged_reason(exchange)
    if reason is not None or exchange.reply is None:
        return Verdict(reason=reason)
    told = exchange.value
    probabilities = value_probabilities(exchange.reply, "choice", CHOICES)
    return Verdict(choice=CHOICES.index(told["choice"]), analysis=told["analysis"], probabilities=probabilities)


def unjudged_reason(exchange: Exchange) -> str | None:
    """Why there is no answer, None when there is one; a fault is named by its kind."""
    if exchange.state == "done":
        return None
    if exchange.state == "dead":
        return f"dead: {(exchange.reason or 'unknown').split(':')[0]}"
    return exchange.state
