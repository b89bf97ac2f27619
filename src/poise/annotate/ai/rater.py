"""A model behind endpoints as a rater: QA labels and rankings of pairs, each answer paid for once.

    rater = EndpointRater("judge-8b", lanes, store)
    rater.ask(rater.label_requests(records()))
    judgements = list(rater.labels(records()))

Two passes over the records, so that memory does not grow with them: the first sends what the store does not hold, the
second reads from the store. Several models are several raters on one store, each with lanes of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from poise.annotate.ai.fallback import WhereLogprobs
from poise.annotate.ai.pairs import BY_ORDER, SAME_TEXT, AxisCounts, Flips, combine, known_safer
from poise.annotate.ai.quoting import Parts
from poise.annotate.ai.rubrics import Axis, Rubric, label_rubric, pair_rubric
from poise.annotate.ai.verdicts import Verdict, read_choice, read_label
from poise.data.records import JudgementRecord, QARecord, Record, SingleRecord
from poise.data.rows import label_value
from poise.harm import policy_version
from poise.llm.budget import Budget
from poise.llm.exchange import ChatRequest
from poise.llm.limits import Lane
from poise.llm.runner import Counts, OnEnd, ask_all
from poise.llm.store import Exchange, ReplyStore

LOGPROBS = 5
"""Alternatives asked for at each token: the most that all servers allow."""
MAX_TOKENS = 512

OnFlip = Callable[[SingleRecord, Axis], object]
_PENDING = Exchange("", "dead", reason="not asked")


def _ignore(_record: SingleRecord, _axis: Axis) -> None:
    """Nobody is waiting for flips."""


class EndpointRater:
    """One model's judgements.

    Args:
        model: name the servers know; also the rater's id.
        lanes: servers that answer alike. They are asked for log-probabilities, and without where they have none.
        store: of replies, open.
        budget: stops asking when reached.
        max_tokens: of an answer; a longer one is unjudged.
    """

    def __init__(
        self,
        model: str,
        lanes: Sequence[Lane],
        store: ReplyStore,
        *,
        budget: Budget | None = None,
        max_tokens: int = MAX_TOKENS,
    ) -> None:
        self.model, self.store, self._budget, self._max_tokens = model, store, budget, max_tokens
        self._lanes = [Lane(WhereLogprobs(lane.client), lane.limits) for lane in lanes]
        self._versions: dict[str, str] = {}
        self._states: Counter[str] = Counter()
        self._rungs: Counter[str] = Counter()
        self._judged: Counter[str] = Counter()
        self._known: Counter[str] = Counter()
        self._unjudged: Counter[str] = Counter()
        self._axes: dict[Axis, AxisCounts] = {}

    def label_requests(self, records: Iterable[QARecord]) -> Iterator[ChatRequest]:
        """One request a record; none about an image, which is not shown."""
        rubric = label_rubric()
        return (self._request(rubric, _qa_parts(record)) for record in records if record.image is None)

    def rank_requests(self, records: Iterable[SingleRecord], axes: Sequence[Axis]) -> Iterator[ChatRequest]:
        """Two requests for each record and axis that needs an answer, one an order."""
        for record in records:
            for axis in axes:
                if _settled(record, axis) is None:
                    yield from self._both_orders(record, axis)

    def ask(self, requests: Iterable[ChatRequest], on_end: OnEnd | None = None) -> Counts:
        """Send what the store does not hold, and again what had failed for good.

        Raises:
            PoiseError: as `ask_all`.
        """
        return ask_all(requests, self.store, self._lanes, name=self.model, budget=self._budget, on_end=on_end)

    def labels(self, records: Iterable[QARecord], *, round_: int = 0) -> Iterator[JudgementRecord]:
        """One "label" judgement a record, in order, from the store; `probability` is that of severity 1 or more.

        Args:
            round_: of the judgements, above those that this rater has given before.
        """
        rubric = label_rubric()
        for record in records:
            verdict = Verdict(reason="image")
            if record.image is None:
                verdict = read_label(self._stored(self._request(rubric, _qa_parts(record))))
            label, severity = verdict.label, verdict.probabilities
            yield self._judgement(
                rubric,
                record,
                (record.item,),
                round_,
                value=None if label is None else {**label_value(label), "safe": label.safe},
                probability=None if severity is None else 1.0 - severity[0],
                told={"reason": verdict.reason, "analysis": verdict.analysis, "severity_probabilities": severity},
            )

    def rankings(
        self,
        records: Iterable[SingleRecord],
        axes: Sequence[Axis],
        flips: Flips = "tie",
        *,
        round_of: Callable[[str], int] = lambda question: 0,
        on_flip: OnFlip = _ignore,
    ) -> Iterator[JudgementRecord]:
        """One judgement a record and axis, in order, from the store.

        Args:
            flips: what becomes of a pair whose two answers name different responses: both leave it without a value;
                "person" also says so in its reason.
            round_of: of the judgements, by question.
            on_flip: hears of each flip.
        """
        for record in records:
            for axis in axes:
                yield self._ranking(record, axis, flips, round_of(axis), on_flip)

    def report(self) -> dict[str, Any]:
        """Counts over all judgements given so far, as JSON: how answers ended and came about, flips, why not judged."""
        return {
            "model": self.model,
            "rubrics": dict(self._versions),
            "answers": dict(self._states.most_common()),
            "rungs": dict(self._rungs.most_common()),
            "judgements": dict(self._judged),
            "with_probability": dict(self._known),
            "unjudged": dict(self._unjudged.most_common()),
            "axes": {axis: counts.to_json() for axis, counts in self._axes.items()},
        }

    def _ranking(self, record: SingleRecord, axis: Axis, flips: Flips, round_: int, on_flip: OnFlip) -> JudgementRecord:
        rubric, counts = pair_rubric(axis), self._axes.setdefault(axis, AxisCounts())
        if (reason := _settled(record, axis)) is not None:
            safer = known_safer(record, axis) if reason == BY_ORDER else None
            counts.settle(reason)
            if safer is not None:
                return _by_order(record, safer)
            return self._judgement(rubric, record, record.items, round_, None, None, {"reason": reason})
        first, second = self._both_orders(record, axis)
        verdicts = read_choice(self._stored(first)), read_choice(self._stored(second))
        ranking = combine(verdicts, flips)
        counts.add(verdicts, ranking)
        if ranking.flipped:
            on_flip(record, axis)
        told = {
            "reason": ranking.reason,
            "probability_0": ranking.probability_0,
            "analyses": [verdict.analysis for verdict in verdicts],
        }
        return self._judgement(rubric, record, record.items, round_, ranking.value, ranking.probability, told)

    def _both_orders(self, record: SingleRecord, axis: Axis) -> tuple[ChatRequest, ChatRequest]:
        rubric, (first, second) = pair_rubric(axis), record.responses
        shown = ((first, second), (second, first))
        one, two = (self._request(rubric, _pair_parts(record, *texts)) for texts in shown)
        return one, two

    def _request(self, rubric: Rubric, parts: Parts) -> ChatRequest:
        return ChatRequest(
            self.model,
            rubric.messages(parts),
            temperature=0.0,
            max_tokens=self._max_tokens,
            schema=rubric.schema,
            logprobs=LOGPROBS,
            template=rubric.version,
        )

    def _stored(self, request: ChatRequest) -> Exchange:
        """How a request ended, counted; one that nobody asked is as good as dead."""
        exchange = self.store.get(request.identity) or _PENDING
        self._states[exchange.state] += 1
        if exchange.rung is not None:
            self._rungs[exchange.rung] += 1
        return exchange

    def _judgement(
        self,
        rubric: Rubric,
        record: Record,
        items: tuple[str] | tuple[str, str],
        round_: int,
        value: object,
        probability: float | None,
        told: dict[str, Any],
    ) -> JudgementRecord:
        version = self._versions.setdefault(rubric.question, rubric.version)
        self._judged[rubric.question] += 1
        self._known[rubric.question] += probability is not None
        if value is None:
            self._unjudged[f"{rubric.question}: {told['reason']}"] += 1
        return JudgementRecord(
            item=":".join(items),
            question=rubric.question,
            value=value,
            rater=self.model,
            rater_kind="model",
            rater_version=version,
            probability=probability,
            round=round_,
            policy=policy_version(),
            responses=items,
            split=record.split,
            dataset=record.dataset,
            provenance={name: part for name, part in told.items() if part is not None},
        )


def _settled(record: SingleRecord, axis: Axis) -> str | None:
    """Why a pair is not asked about, None when it is."""
    if record.responses[0] == record.responses[1]:
        return SAME_TEXT
    if known_safer(record, axis) is not None:
        return BY_ORDER
    return None if record.image is None else "image"


def _by_order(record: SingleRecord, safer: int) -> JudgementRecord:
    return JudgementRecord(
        item=":".join(record.items),
        question="safer",
        value=safer,
        rater="logical-order",
        rater_kind="rule",
        policy=policy_version(),
        responses=record.items,
        split=record.split,
        dataset=record.dataset,
        provenance={"reason": "exactly one response is safe"},
    )


def _before(record: Record) -> list[tuple[str, str]]:
    return [(f"earlier message, {turn.role}", turn.content) for turn in record.turns]


def _qa_parts(record: QARecord) -> Parts:
    return [*_before(record), ("prompt", record.prompt), ("response", record.response)]


def _pair_parts(record: SingleRecord, first: str, second: str) -> Parts:
    return [*_before(record), ("prompt", record.prompt), ("response A", first), ("response B", second)]
