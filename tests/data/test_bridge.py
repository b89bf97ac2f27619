"""Records into a corpus: what a label says, and which labels are left out."""

from __future__ import annotations

import pytest

from poise.data.bridge import CorpusBuilder
from poise.data.records import PartialLabel, QARecord


def judged(label: PartialLabel) -> tuple[list[tuple[str, object]], dict[str, int]]:
    """What a corpus holds of one answer with this label, and what it dropped."""
    builder = CorpusBuilder("set", keep_order=True)
    builder.add(QARecord(prompt="p", response="r", label=label))
    found = builder.corpus()
    return [(told.question, told.value) for told in found.judgements], found.dropped


@pytest.mark.parametrize(
    "label",
    [
        PartialLabel(safe=True, severity=3),
        PartialLabel(safe=False, severity=0),
        PartialLabel(safe=True, categories=("Drugs",)),
        PartialLabel(safe=True, categories=("Drugs",), undecided=("Violence",)),
        PartialLabel(safe=False, categories=()),
        PartialLabel(categories=("Drugs",), severity=0),
        PartialLabel(safe=False, categories=("Drugs",), severity=4),
    ],
)
def test_a_label_that_contradicts_itself_is_left_out(label: PartialLabel) -> None:
    reason = "the safe flag, the severity and the harm categories disagree"
    assert judged(label) == ([], {reason: 1})


@pytest.mark.parametrize(
    "label",
    [
        PartialLabel(safe=False, severity=3),
        PartialLabel(safe=False, categories=("Drugs",)),
        PartialLabel(safe=False, categories=(), undecided=("Violence",)),
        PartialLabel(safe=False, categories=(), taxonomy="beavertails-14"),
    ],
)
def test_a_label_in_part_is_a_safe_flag(label: PartialLabel) -> None:
    assert judged(label) == ([("safe", False)], {})


def test_a_whole_label_is_a_label() -> None:
    (told,), dropped = judged(PartialLabel(safe=False, categories=("Drugs",), severity=2))
    assert told[0] == "label" and dropped == {}
