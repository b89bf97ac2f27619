"""Tables judged by the guards of others: "safe" judgements of every response, and "label" where the guard says more.

The writer, the resume and the rounds are those of `poise.annotate.ai.judging`. Left out: prompts alone, which have no
judgements of their own in the tables; earlier messages, which most of these guards can't be shown (the provenance says
so where there were any); images (unjudged).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from poise.annotate.ai.judging import Rounds, responses_of
from poise.annotate.ai.rater import OnFlip
from poise.data.records import JudgementRecord, QARecord
from poise.data.tables import Tables
from poise.guard.others.endpoint_guard import EndpointGuard
from poise.guard.others.family import Family
from poise.guard.verdict import Verdict, codes, unjudged
from poise.harm import PKU, policy_version
from poise.llm.exchange import ChatRequest


@dataclass(frozen=True)
class GuardTask:
    """What a guard is to do with tables.

    Args:
        family: of all guards that take part.
    """

    family: Family

    @property
    def versions(self) -> dict[str, str]:
        """Question -> version of the format it was asked in."""
        return dict.fromkeys(("safe", "label"), self.family.version)

    def requests(self, rater: EndpointGuard, tables: Tables) -> Iterator[ChatRequest]:
        """What has to be answered: every response once."""
        return rater.requests((r.prompt, r.response) for r in responses_of(tables) if r.image is None)

    def judgements(
        self, rater: EndpointGuard, tables: Tables, rounds: Rounds, on_flip: OnFlip
    ) -> Iterator[JudgementRecord]:
        """What the answers say; there are no flips."""
        for record in responses_of(tables):
            shown = record.image is None
            verdict = rater.stored((record.prompt, record.response)) if shown else unjudged("image")
            yield _judgement(rater, record, verdict, "safe", rounds)
            if verdict.categories or (verdict.unsafe is False and self.family.taxonomy) or verdict.severity:
                yield _judgement(rater, record, verdict, "label", rounds)


def _judgement(
    guard: EndpointGuard, record: QARecord, verdict: Verdict, question: str, rounds: Rounds
) -> JudgementRecord:
    told = verdict.to_json() | ({"earlier_messages": "not shown"} if record.turns else {})
    safe = None if verdict.unsafe is None else not verdict.unsafe
    return JudgementRecord(
        item=record.item,
        question=question,
        value=safe if question == "safe" else _label(verdict),
        rater=guard.model,
        rater_kind="model",
        rater_version=guard.family.version,
        probability=verdict.probability,
        round=rounds.get((guard.model, question), 0),
        policy=policy_version(),
        responses=(record.item,),
        split=record.split,
        dataset=record.dataset,
        provenance=told,
    )


def _label(verdict: Verdict) -> dict[str, object]:
    """What is known of the label and nothing else: categories and severity only where the guard tells them."""
    told: dict[str, object] = {"safe": verdict.unsafe is False, "taxonomy": PKU}
    if verdict.categories is not None:
        told["categories"] = codes(verdict.categories)
    if verdict.severity is not None:
        told["severity"] = int(verdict.severity)
    return told
