"""The joint report: how good people, the model and both together are, and what the suggestion does, as plain JSON."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from poise.annotate.joint import estimands as es
from poise.annotate.joint.estimands import Trial
from poise.annotate.joint.intervals import share
from poise.annotate.joint.reading import VARIABLES, Question, Read, Reference, read
from poise.annotate.store import AnnotationStore
from poise.annotate.store.overlap import Value


def report(store: AnnotationStore, reference: Reference | None = None) -> dict[str, Any]:
    """The report on all questions that were answered.

    Args:
        reference: the items whose adjudicated value is the truth; None means "audited" where the store audits items.

    Raises:
        PoiseError: see `reading.read`.
    """
    used: Reference = reference or ("audited" if store.joint.audit_share else "adjudicated")
    found = read(store, used)
    return {
        "store": store.database.name,
        "joint": store.joint.to_json(),
        "reference": used,
        "drawn": _drawn(found),
        "questions": [
            {
                "question": name,
                "reference_items": len(question.truth),
                "answers": len(question.answers),
                "unjudged": question.unjudged,
                "no_arm": question.no_arm,
                "variables": [
                    {"name": variable, **_variable(question, of, found.raters, store.joint.suggester)}
                    for variable, of in VARIABLES[name].items()
                ],
            }
            for name, question in found.questions.items()
        ],
    }


def _drawn(found: Read) -> dict[str, int]:
    """What was drawn, one for each item, person and question."""

    def count(when: Callable[[str, bool, bool], bool]) -> int:
        return sum(n for key, n in found.showings.items() if when(*key))

    return {
        "drawn": count(lambda *_: True),
        "control": count(lambda arm, *_: arm == "control"),
        "suggested": count(lambda arm, *_: arm != "control"),
        "suggested_clear": count(lambda arm, clear, _: arm != "control" and clear),
        "planted": count(lambda arm, _, planted: arm != "control" and planted),
    }


def _variable(
    question: Question, of: Callable[[Value], Hashable], raters: dict[int, str], suggester: str | None
) -> dict[str, Any]:
    trial = question.trial(of)
    told: dict[str, Any] = {
        "accuracy": _accuracy(question, of, trial, suggester),
        "gain": es.gain(trial).to_json(),
        "gain_over_model": es.gain_over_model(trial).to_json(),
        "override_wrong": es.override(trial, right=False).to_json(),
        "override_right": es.override(trial, right=True).to_json(),
        "automation_bias": es.automation_bias(trial).to_json(),
        "pull": es.pull(trial).to_json(),
        "shift": es.shift(trial).to_json(),
    }
    accepted, reliance = es.planted(trial)
    told |= {"planted_accepted": accepted.to_json(), "planted_reliance": reliance.to_json()}
    if (trial.before >= 0).any():
        told |= {"ai_reliance": es.ai_reliance(trial).to_json(), "self_reliance": es.self_reliance(trial).to_json()}
    told["raters"] = [
        {"rater": raters[key], **_rater(trial.of(trial.rater == key))} for key in sorted(set(trial.rater.tolist()))
    ]
    return told


def _accuracy(
    question: Question, of: Callable[[Value], Hashable], trial: Trial, suggester: str | None
) -> dict[str, Any]:
    told = {
        "person alone": es.accuracy(trial, shown=False).to_json(),
        "joint": es.accuracy(trial, shown=True).to_json(),
    }
    for name, said in sorted(question.models.items(), key=lambda one: (one[0] != suggester, one[0])):
        told[f"model {name}"] = _right(question, of, said)
    decided = {item: value for item, value in question.together.items() if value is not None}
    told["votes together"] = _right(question, of, decided) | {"undecided": len(question.together) - len(decided)}
    return told


def _right(question: Question, of: Callable[[Value], Hashable], said: dict[int, Value]) -> dict[str, Any]:
    """Accuracy of one value an item, against the truth."""
    items = [item for item in question.truth if item in said]
    hits = [of(said[item]) == of(question.truth[item]) for item in items]
    return share(np.array(hits, dtype=bool), np.array(items, dtype=np.int64)).to_json()


def _rater(trial: Trial) -> dict[str, Any]:
    accepted, _ = es.planted(trial)
    return {
        "answers": len(trial.item),
        "alone": es.accuracy(trial, shown=False).to_json(),
        "joint": es.accuracy(trial, shown=True).to_json(),
        "override_wrong": es.override(trial, right=False).to_json(),
        "shift": es.shift(trial).to_json(),
        "planted_accepted": accepted.to_json(),
    }
