"""What training rows get beyond their source: likely severities, refusals that name the harm, harmless requests that
quote it, disguised texts, and weights by which no large set drowns the small ones.

All of it is drawn by hash, touches training and calibration rows only, and never a row that is measured.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from random import Random
from typing import TYPE_CHECKING

from poise.data import uniform_seed
from poise.data.synth.marginals import CATEGORIES as PUBLISHED
from poise.guard.obfuscation import OBFUSCATIONS

if TYPE_CHECKING:
    from poise.guard.fit.plan import DataPlan
    from poise.guard.fit.rows import Row

REFUSALS = (
    "I'm sorry, but I can't help with that. {asked} is not something I will assist with.",
    "No. You asked: {asked} I won't give advice on this, because people could be hurt.",
    "I can't help with this request ({asked}). If you are in danger, please talk to someone you trust.",
    "Helping with this would be wrong, so I have to decline: {asked}",
    "{asked} I will not answer this, since it could cause serious harm and is likely illegal.",
    "As an assistant I don't support this. Instead of an answer to '{asked}', I can talk about why it is harmful.",
    "I understand what you ask, {asked}, but I refuse. There are lawful and kinder ways, and I'm glad to help there.",
    "That would be dangerous. I'm not able to provide any information about this: {asked}",
)
"""Answers that name the harm and refuse it; `asked` is the prompt."""
QUOTES = (
    "Somebody wrote this to me: '{asked}'. How do I report it?",
    "'{asked}' Nobody should ask for such a thing. How can I answer it calmly?",
    "My daughter saw this message at school: '{asked}'. How do I talk with her about it?",
    "I moderate a forum and removed a post that said '{asked}'. Which rule should I name?",
    "Why is it wrong to say '{asked}'?",
    "The article quotes him: '{asked}'. He was convicted last year. Summarise the verdict in one sentence.",
    "Translate this warning for our staff: if a customer says '{asked}', call the manager.",
    "People who say '{asked}' hurt others. Help me to write against that.",
)
"""Requests that quote harm in order to report, answer or judge it (counter-speech); `asked` is a harmful prompt."""
_LONGEST = 300
"""Characters of a prompt that a refusal or a quotation repeats."""


def enrich(rows: Sequence[Row], plan: DataPlan, seed: int) -> list[Row]:
    """The rows with likely severities, then the refusals and the quotations.

    Args:
        rows: of any part; test rows come back as they are.
    """
    found = [_graded(row) if plan.severity_prior and row.part != "test" else row for row in rows]
    asked = [row for row in rows if row.part == "train" and row.response is None and row.at_least[0] == 1.0]
    refused = [_refusal(row, seed) for row in asked if _is_chosen(row, "refused", plan.refusals, seed)]
    return [*found, *refused, *(_quotation(row, seed) for row in asked if _is_chosen(row, "quoted", plan.quoted, seed))]


def evened(rows: Sequence[Row], power: float) -> list[Row]:
    """The rows, those that train weighted so that a set of n of them counts as n^power (Conneau et al. 2020, 3.1)."""
    size = Counter(row.source for row in rows if row.part == "train")
    share = {source: n ** (power - 1) for source, n in size.items()}
    return [row._replace(weight=row.weight * share[row.source]) if row.part == "train" else row for row in rows]


def _graded(row: Row) -> Row:
    """An unsafe row of known categories and unknown level: P(level >= 2, 3), the mean over its categories.

    The odds of each category are those of PKU-SafeRLHF's published counts (`poise.data.synth.marginals`).
    """
    named = [k for k, value in enumerate(row.categories) if value == 1.0]
    if row.at_least[0] != 1.0 or not math.isnan(row.at_least[1]) or not named:
        return row
    shares = [(sum(PUBLISHED[k][1:3]) / sum(PUBLISHED[k][:3]), PUBLISHED[k][2] / sum(PUBLISHED[k][:3])) for k in named]
    two, three = (sum(share) / len(named) for share in zip(*shares, strict=True))
    return row._replace(at_least=(1.0, two, three))


def _is_chosen(row: Row, purpose: str, share: float, seed: int) -> bool:
    return uniform_seed(seed, purpose, row.prompt) < share * 2**63


def _refusal(row: Row, seed: int) -> Row:
    text = REFUSALS[uniform_seed(seed, "refusal", row.prompt) % len(REFUSALS)].format(asked=_short(row.prompt))
    return harmless(row)._replace(response=text, refusal=1.0)


def _quotation(row: Row, seed: int) -> Row:
    text = QUOTES[uniform_seed(seed, "quotation", row.prompt) % len(QUOTES)].format(asked=_short(row.prompt))
    return harmless(row)._replace(prompt=text)


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "..."


def harmless(row: Row) -> Row:
    """The row with no category and no severity."""
    return row._replace(categories=(0.0,) * len(row.categories), at_least=(0.0, 0.0, 0.0), safer=None)


def disguised(row: Row, step: int, share: float, seed: int) -> Row:
    """The row, or with probability `share` its texts in one of the obfuscations, drawn anew each step."""
    drawn = uniform_seed(seed, "disguise", str(step), row.prompt, row.response or "")
    if drawn >= share * 2**63:
        return row
    chance = Random(drawn)
    change = OBFUSCATIONS[chance.choice(sorted(OBFUSCATIONS))]
    response = None if row.response is None else change(row.response, chance)
    return row._replace(prompt=change(row.prompt, chance), response=response)
