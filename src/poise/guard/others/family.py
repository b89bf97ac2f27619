"""What is common to the guards of others: how one is asked, how an answer is read, how several answers become one.

A family holds the format of one line of models and knows no server. Its parser takes the whole answer or none of it:
what it does not fully understand is unjudged. Texts under judgement are sent as they are, but for words that chat
templates read as control tokens, which get a backslash: a server may parse them inside a message and end it there.
What a raw prompt marks with plain words ("AI assistant:") can be forged by a text; the formats offer no escape.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from poise.annotate.ai.quoting import defused
from poise.data.corpus import canonical_json
from poise.guard.verdict import Item, Verdict, judged, unjudged
from poise.llm.exchange import Reply


@dataclass(frozen=True)
class Question:
    """One request to a guard.

    Args:
        messages: (role, content); with `complete` a single ("prompt", text).
        complete: a plain completion, for models whose prompt no chat template makes.
        about: what it asks of several things, such as the name of one policy; "" when it asks everything.
        schema: JSON schema of the answer.
    """

    messages: tuple[tuple[str, str], ...]
    complete: bool = False
    about: str = ""
    schema: Mapping[str, Any] | None = field(default=None, hash=False)


@dataclass(frozen=True)
class Answer:
    """What came back.

    Args:
        reply: with its text and, where the server tells, log-probabilities.
        question: what was asked.
        pair: whether a response was judged, and not a prompt alone.
        strict: how a middle tier is to be read.
        value: the parsed answer to a question with a schema.
    """

    reply: Reply
    question: Question
    pair: bool = True
    strict: bool = True
    value: Any = None

    @property
    def text(self) -> str:
        """The words of the answer."""
        return self.reply.text


@dataclass(frozen=True)
class Family:
    """One line of guards.

    Args:
        name: what commands call it.
        title: for people to read.
        source: where prompt and format are from, and what of them could not be verified.
        ask: the questions about an item; several when one call judges one policy, or a part of a long text.
        read: the verdict of one answer.
        taxonomy: category set of ours that it speaks, None where no crosswalk knows it.
        max_tokens: of one answer.
        one_token: the verdict is the first token and no more is asked for, so an answer cut there is whole.
        hosted: it has a wire format of its own and needs a client of its own.
        logprobs: whether its first words carry a probability.
        revision: counts changes of the parser.
        asks_with: `ask` by a prompt of the user's own, where the guard takes one.
    """

    name: str
    title: str
    source: str
    ask: Callable[[str, str | None], tuple[Question, ...]]
    read: Callable[[Answer], Verdict]
    taxonomy: str | None = None
    max_tokens: int = 64
    one_token: bool = False
    hosted: bool = False
    logprobs: bool = True
    revision: int = 1
    asks_with: Callable[[str], Callable[[str, str | None], tuple[Question, ...]]] | None = None

    def questions(self, item: Item) -> tuple[Question, ...]:
        """What is asked about an item, control tokens made harmless."""
        prompt, response = item
        if self.hosted:  # JSON needs none of it
            return self.ask(prompt, response)
        return self.ask(defused(prompt), None if response is None else defused(response))

    @property
    def version(self) -> str:
        """The name and 12 hex digits over the words of its questions, its taxonomy and its parser's revision."""
        asked = [
            [question.messages, question.complete, question.about, question.schema]
            for item in (("{prompt}", None), ("{prompt}", "{response}"))
            for question in self.questions(item)
        ]
        told = canonical_json([asked, self.taxonomy, self.max_tokens, self.revision])
        return f"{self.name}-{hashlib.sha256(told.encode()).hexdigest()[:12]}"


def conversation(prompt: str, response: str | None) -> tuple[tuple[str, str], ...]:
    """The messages that a guard's own chat template turns into its prompt."""
    return (("user", prompt),) if response is None else (("user", prompt), ("assistant", response))


def chat(prompt: str, response: str | None) -> tuple[Question, ...]:
    """One question: the conversation itself; the server's chat template adds policy and instructions."""
    return (Question(conversation(prompt, response)),)


def worst(verdicts: Sequence[Verdict]) -> Verdict:
    """One verdict of several about parts or policies: unsafe if any is; safe only if every one is safe.

    The probability is the largest of those known, a floor of P(any).
    """
    if len(verdicts) == 1:
        return verdicts[0]
    raw = tuple(text for verdict in verdicts for text in verdict.raw)
    missing = [verdict.reason for verdict in verdicts if verdict.reason is not None]
    bad = [verdict for verdict in verdicts if verdict.unsafe]
    if not bad and (missing or not verdicts):
        return unjudged(missing[0] if missing else "nothing was asked", *raw)
    known = [verdict.probability for verdict in verdicts if verdict.probability is not None]
    return judged(
        bool(bad),
        taxonomy=next((verdict.taxonomy for verdict in bad or verdicts if verdict.taxonomy is not None), None),
        named=tuple(dict.fromkeys(name for verdict in bad for name in verdict.named)),
        severities=max((verdict.severities for verdict in bad), default=()),
        probability=max(known, default=None) if bad or len(known) == len(verdicts) else None,
        level=max((verdict.level for verdict in bad if verdict.level is not None), default=None),
        details={f"unjudged part {number}": reason for number, reason in enumerate(missing, 1)},
        raw=raw,
    )
