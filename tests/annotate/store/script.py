"""A fixed run of a store that touches everything: what both databases must agree on."""

from __future__ import annotations

from typing import Any

from poise.annotate.store import AnnotationStore
from poise.data.records import DualRecord, PartialLabel, QARecord, Record, SingleRecord
from poise.data.rows import Rater

LABELS: list[dict[str, Any]] = [
    {"categories": [], "severity": 0},
    {"categories": ["S2"], "severity": 1},
    {"categories": ["S1"], "severity": 2},
]


def rows() -> list[Record]:
    """Answers to two prompts, all pairs of them, one pair for the single preference, odd characters."""
    made: list[Record] = [
        DualRecord(prompt=prompt, responses=(first, second), provenance={"why": "test"}, split="train")
        for prompt in ("p", "q\u0000\u2028'\"")
        for first, second in (("a", "b"), ("b", "c"), ("c", "a"))
    ]
    label = PartialLabel(safe=False, categories=("Violence",), severity=2)
    return [
        *made,
        SingleRecord(prompt="p", responses=("b", "a"), better=0),
        QARecord(prompt="x", response="y", label=label),
    ]


def play(store: AnnotationStore, now: list[float], *, disputes: bool = True) -> None:
    """Three people answer what they get, change their minds, and a fourth decides disputes or is one of them."""
    people = [store.rater(Rater(id=name, kind="person")) for name in ("ann", "ben", "cem", "dea")]
    model = store.rater(Rater(id="judge", kind="model", version="prompt-1"))
    store.judge(model, 1, {"label": LABELS[2]}, token="model")
    made = []
    for step in range(160):
        now[0] += 1.5
        person = people[step % 4]
        dispute = disputes and step % 4 == 3
        task = store.next_task(person, adjudicate=dispute)
        if task is None:
            continue
        values = {
            question: LABELS[(task.item * 7 + step) % 3]
            if question == "label"
            else {"choice": (0, 1, "tie")[(task.item + step // 5) % 3], "strength": None}
            for question in task.asks
        }
        made.append(
            (person, store.submit(person, task.token, values, token=f"s{step}", reason="because", client_ms=step))
        )
        if step % 13 == 5:
            who, events = made[-1]
            store.undo(who, next(iter(events.values())), token=f"u{step}")
