"""A guard of others behind endpoints: each answer is paid for once, then read as often as you like.

    guard = EndpointGuard(FAMILIES["llama-guard-3"], "llama-guard-3-8b", lanes, store)
    verdicts = guard.judge([("How do I bake bread?", "Mix flour and water.")])

Replies are in the store before anything else happens; a second run sends nothing. A refusal, a filtered or cut answer,
a request that failed for good and an answer that can't be read are unjudged with their reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from poise.annotate.ai.fallback import WhereLogprobs
from poise.guard.others.family import Answer, Family, Question, worst
from poise.guard.verdict import GuardGoneError, Item, Verdict, unjudged
from poise.llm.budget import Budget
from poise.llm.exchange import ChatRequest, ServersGoneError
from poise.llm.limits import Lane
from poise.llm.runner import Counts, OnEnd, ask_all
from poise.llm.store import ReplyStore

LOGPROBS = 5
"""Alternatives asked for at each token: the most that all servers allow."""
_NOT_ASKED = "dead: not asked"


class EndpointGuard:
    """One model of one family.

    Args:
        family: how it is asked and read.
        model: name the servers know; also the rater's id.
        lanes: servers that answer alike. They are asked for log-probabilities, and without where they have none.
        store: of replies, open.
        strict: read a middle tier as unsafe; of families without one it changes nothing.
        budget: stops asking when reached.
    """

    def __init__(
        self,
        family: Family,
        model: str,
        lanes: Sequence[Lane],
        store: ReplyStore,
        *,
        strict: bool = True,
        budget: Budget | None = None,
    ) -> None:
        self.family, self.model, self.store, self.strict, self._budget = family, model, store, strict, budget
        self.name = f"{family.name}:{model}"
        self._lanes = [Lane(WhereLogprobs(lane.client), lane.limits) for lane in lanes] if family.logprobs else [*lanes]
        self._counts: Counter[str] = Counter()
        self._unjudged: Counter[str] = Counter()

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        """Verdicts in order; asks what the store does not hold. Items that got no answer are unjudged, all of them too.

        Raises:
            GuardGoneError: the servers take no request at all (see `Runner.run`); it holds what the store does.
            PoiseError: the budget is spent.
        """
        try:
            self._ask(self.requests(items), need_answer=False)
        except ServersGoneError as error:
            known = [self.stored(item) for item in items]
            why = f"not asked: {error.what}"
            verdicts = [replace(one, reason=why) if one.reason == _NOT_ASKED else one for one in known]
            raise GuardGoneError(error, verdicts) from error
        return [self.stored(item) for item in items]

    def requests(self, items: Iterable[Item]) -> Iterator[ChatRequest]:
        """What has to be answered; several requests an item for families that judge one policy a call."""
        return (self._request(question) for item in items for question in self.family.questions(item))

    def ask(self, requests: Iterable[ChatRequest], on_end: OnEnd | None = None) -> Counts:
        """Send what the store does not hold, and again what had failed for good.

        Raises:
            PoiseError: as `ask_all`.
        """
        return self._ask(requests, on_end)

    def _ask(self, requests: Iterable[ChatRequest], on_end: OnEnd | None = None, *, need_answer: bool = True) -> Counts:
        told: dict[str, Any] = {"budget": self._budget, "on_end": on_end, "need_answer": need_answer}
        return ask_all(requests, self.store, self._lanes, name=self.name, **told)

    def stored(self, item: Item) -> Verdict:
        """The verdict of what the store holds; unjudged where it holds nothing."""
        questions = self.family.questions(item)
        if not questions:
            verdict = unjudged("not for a prompt alone")
        else:
            verdict = worst([self._read(question, pair=item[1] is not None) for question in questions])
        word = {True: "unsafe", False: "safe", None: "unjudged"}[verdict.unsafe]
        self._counts[word] += 1
        if verdict.reason is not None:
            self._unjudged[verdict.reason] += 1
        return verdict

    def report(self) -> dict[str, Any]:
        """Counts over all verdicts given so far, as JSON."""
        return {
            "model": self.model,
            "guard": self.family.name,
            "version": self.family.version,
            "strict": self.strict,
            "verdicts": dict(self._counts),
            "unjudged": dict(self._unjudged.most_common()),
        }

    def _request(self, question: Question) -> ChatRequest:
        return ChatRequest(
            self.model,
            question.messages,
            temperature=0.0,
            max_tokens=self.family.max_tokens,
            schema=question.schema,
            logprobs=LOGPROBS if self.family.logprobs else 0,
            template=self.family.version,
            complete=question.complete,
        )

    def _read(self, question: Question, *, pair: bool) -> Verdict:
        exchange = self.store.get(self._request(question).identity)
        if exchange is None:
            return unjudged(_NOT_ASKED)
        cut = exchange.state == "truncated" and self.family.one_token
        if exchange.reply is None or (exchange.state != "done" and not cut):
            kind = f": {(exchange.reason or 'unknown').split(':')[0]}" if exchange.state == "dead" else ""
            return unjudged(exchange.state + kind, *([] if exchange.reply is None else [exchange.reply.text]))
        return self.family.read(Answer(exchange.reply, question, pair, self.strict, exchange.value))
