"""A dozen pairs, eight overall choices and three labelled answers; the tests work the statistics out by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from poise.data.audit import audit
from poise.data.records import UNKNOWN, DualRecord, PartialLabel, QARecord, Record, SingleRecord
from poise.data.tables import Tables, TableWriter, open_tables

SAFE = PartialLabel(safe=True, categories=(), severity=0)
WARNING = "Please note that this is unwise."
TYPOGRAPHIC = "It’s important to note the law."
SORRY = "I’m sorry, no."


def harm(severity: int, *categories: str) -> PartialLabel:
    return PartialLabel(safe=False, categories=categories, severity=severity)


def text(length: int, start: str = "") -> str:
    """Nothing, `length` characters long."""
    return start + "-" * (length - len(start))


def pair(
    number: int,
    texts: tuple[str, str],
    labels: tuple[PartialLabel, PartialLabel],
    better: int | None,
    safer: int | None,
    **more: object,
) -> DualRecord:
    return DualRecord(
        prompt=f"prompt {number}", responses=texts, labels=labels, better=better, safer=safer, split="train", **more
    )


V, P, D, C = "Violence", "Physical Harm", "Drugs", "Copyright Issues"
A, B = {"response_sources": ("A", "A")}, {"response_sources": ("B", "B")}
PAIRS = [
    pair(1, (text(10, "I cannot"), text(20)), (SAFE, SAFE), 0, 0, **A),
    pair(2, (text(30), text(10)), (SAFE, SAFE), 1, 1, **A),
    pair(3, (text(5), text(40, WARNING)), (SAFE, harm(2, V)), 1, 0, **A),
    pair(4, (text(8), text(8, "+")), (harm(3, V, P), SAFE), 1, 1, **A),
    pair(5, (text(5), text(40, WARNING)), (harm(2, V), harm(2, V)), 0, 1, **A),
    pair(6, (text(40, TYPOGRAPHIC), text(5)), (harm(2, V), harm(2, V, P)), 0, 0, **B),
    pair(7, (text(20, SORRY), text(40, "Well. " + SORRY)), (harm(1, D), harm(3, D)), 1, 0, **B),
    pair(8, (text(40, WARNING), text(50, WARNING)), (harm(2, C), harm(1, C)), 0, 0, **B),
    pair(9, (text(12), text(6)), (harm(2, V), SAFE), 0, 0, **B),
    pair(
        10,
        (text(4), text(2)),
        (SAFE, PartialLabel(safe=True, categories=(), severity=1)),
        None,
        1,
        response_sources=("A", "B"),
    ),
    pair(11, (text(40, WARNING), text(6)), (harm(2, V), harm(2)), 1, None, response_sources=("B", "A")),
    pair(12, (text(7), text(9)), (UNKNOWN, UNKNOWN), 0, 0),
]


def choice(of: DualRecord, better: int | None, *, turned: bool = False) -> SingleRecord:
    """An overall choice about the responses of a pair, in their order or the other way round."""
    responses = of.responses[::-1] if turned else of.responses
    return SingleRecord(prompt=of.prompt, responses=responses, better=better, split="train")


CHOICES = [
    choice(PAIRS[2], 0),
    choice(PAIRS[4], 0, turned=True),
    choice(PAIRS[6], 1),
    choice(PAIRS[0], 1),
    choice(PAIRS[3], 0, turned=True),
    SingleRecord(prompt="another", responses=(text(3), text(4)), better=1, split="train"),
    choice(PAIRS[9], 0),
    choice(PAIRS[1], None),
]
ANSWERS = [
    QARecord(prompt="prompt 1", response=text(5), label=harm(2, V), prompt_source="X", split="test"),
    QARecord(prompt="prompt 1", response=text(5), label=SAFE, prompt_source="X", split="test"),
    QARecord(prompt="prompt 9", response=text(6), label=SAFE),
]


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Iterable[Record]], Tables]:
    """Tables of records."""

    def write(records: Iterable[Record]) -> Tables:
        folder = tmp_path_factory.mktemp("audit") / "tables"
        with TableWriter(folder, {"name": "test"}) as writer:
            for record in records:
                writer.add(record)
        return open_tables(folder)

    return write


@pytest.fixture(scope="session")
def found(make: Callable[[Iterable[Record]], Tables]) -> dict:
    """The audit of the dozen pairs."""
    return audit(make([*PAIRS, *CHOICES, *ANSWERS]))
