"""From scores to judgements: QA labels, then `better`, `safer` and `single` for each pair.

`safer` is decided by the logical order wherever exactly one response is safe, and only else by the expected severity.
`better` looks at helpfulness alone. `single` is one overall choice, helpfulness minus expected severity, in the way a
single annotator trades them off; it is asked apart from the two and never feeds them.
"""

from __future__ import annotations

import math

from poise.annotate.rater import QAScore
from poise.data.rows import Judgement, PairRow, label_value
from poise.harm import Label, decided_safer, policy_version


def label_judgement(item: str, score: QAScore | None, rater: str, *, known_safe: bool | None = None) -> Judgement:
    """The rater's "label" judgement of a QA pair; None stays unjudged.

    Args:
        known_safe: a person's safe/unsafe verdict that the model must not overrule, only complete.
    """
    if score is None:
        return Judgement(
            item=item, question="label", value=None, rater=rater, reason="no score", policy=policy_version()
        )
    return Judgement(
        item=item,
        question="label",
        value=label_value(score.label(known_safe=known_safe)),
        rater=rater,
        probability=score.unsafe,
        reason="completes a person's safe flag" if known_safe is not None else None,
        policy=policy_version(),
    )


def pair_judgements(
    pair: PairRow, labels: tuple[Label, Label], scores: tuple[QAScore, QAScore], rater: str
) -> list[Judgement]:
    """`better`, `safer` and `single` of one pair.

    Args:
        labels: final QA labels of responses 0 and 1; the logical order is taken from them.
        scores: the rater's scores of responses 0 and 1.
    """
    helpful = scores[1].helpful - scores[0].helpful
    harm = scores[1].harm - scores[0].harm
    decided = decided_safer(*labels)
    level = labels[1].severity - labels[0].severity
    safer = _choice("safer", pair, rater, -(level or harm)) if decided is None else _by_order(pair, decided)
    return [_choice("better", pair, rater, helpful), safer, _choice("single", pair, rater, helpful - harm)]


def _choice(question: str, pair: PairRow, rater: str, log_odds_of_1: float) -> Judgement:
    chosen = int(log_odds_of_1 > 0)
    probability = 1.0 / (1.0 + math.exp(-abs(log_odds_of_1)))
    return Judgement.model_validate(
        {
            "item": pair.id,
            "question": question,
            "value": chosen,
            "rater": rater,
            "probability": probability,
            "policy": policy_version(),
        }
    )


def _by_order(pair: PairRow, decided: int) -> Judgement:
    return Judgement(
        item=pair.id,
        question="safer",
        value=decided,
        rater="logical-order",
        reason="exactly one response is safe",
        policy=policy_version(),
    )
