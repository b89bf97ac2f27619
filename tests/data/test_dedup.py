"""Near-duplicate rows: which go, which stay, and that judgements follow their responses."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from poise.data.dedup import dedup_tables, find_clusters
from poise.data.neardup import Cluster
from poise.data.records import DualRecord, JudgementRecord, PromptRecord, QARecord, Record, SingleRecord
from poise.data.split import split_tables, table_leaks
from poise.data.tables import Tables, TableWriter, open_tables
from poise.errors import PoiseError

TEAPOT = "what should one know about old teapots before buying one at a market"
VIOLIN = "how is the varnish of a violin made, and how long does it take to dry"


def tables(folder: Path, records: Iterable[Record]) -> Tables:
    with TableWriter(folder, {"name": "test"}) as writer:
        for record in records:
            writer.add(record)
    return open_tables(folder)


def qa(prompt: str, response: str) -> QARecord:
    return QARecord(prompt=prompt, response=response)


def judged(record: QARecord) -> JudgementRecord:
    return JudgementRecord(item=record.item, question="safe", value=True, rater="r", responses=(record.item,))


def prompts(found: Tables, unit: str) -> list[str]:
    return [
        record.prompt for record in found[unit].records() if isinstance(record, PromptRecord | QARecord | SingleRecord)
    ]


def test_near_duplicate_prompts_go_in_every_unit(tmp_path: Path) -> None:
    near = TEAPOT.replace("old", "Old") + "?"
    kept, gone, other = qa(TEAPOT, "a"), qa(near, "b"), qa(VIOLIN, "c")
    rows = [
        kept,
        gone,
        other,
        qa(TEAPOT, "another answer to the very same prompt"),
        DualRecord(prompt=near, responses=("d", "e")),
        DualRecord(prompt=VIOLIN, responses=("d", "e")),
        judged(kept),
        judged(gone),
        JudgementRecord(item="elsewhere", question="safe", value=True, rater="r", responses=("f" * 64,)),
    ]
    source = tables(tmp_path / "a", rows)
    found, clusters = dedup_tables(source, tmp_path / "b", "prompt")
    # The pair with the near-duplicate prompt comes first in the order of units, so it is the one that stands.
    assert (clusters.texts, clusters.clusters, clusters.repeats) == (3, [Cluster(0, 2)], 1)
    assert prompts(found, "default") == [near, VIOLIN]
    assert prompts(found, "qa") == [near, VIOLIN]
    assert [record.item for record in found["judgements"].records() if isinstance(record, JudgementRecord)] == [
        gone.item,
        "elsewhere",
    ]
    listed = pq.read_table(tmp_path / "b" / "clusters.parquet").to_pylist()
    assert [(row["cluster"], row["text_number"], row["kept"], row["text"]) for row in listed] == [
        (0, 0, True, near),
        (0, 2, False, TEAPOT),
    ]


def test_near_duplicate_answers_go_from_qa_alone(tmp_path: Path) -> None:
    long = "one should look at the spout, the lid and the mark below the foot, in this order, and take some time for it"
    rows = [
        qa(TEAPOT, long),
        qa(TEAPOT, long + "!"),
        qa(TEAPOT, "no idea"),
        DualRecord(prompt=TEAPOT, responses=(long, long + "!")),
    ]
    source = tables(tmp_path / "a", rows)
    found, clusters = dedup_tables(source, tmp_path / "b", "answer")
    assert (clusters.texts, clusters.clusters, clusters.repeats) == (3, [Cluster(0, 2)], 1)
    assert [record.response for record in found["qa"].records() if isinstance(record, QARecord)] == [long, "no idea"]
    assert found.rows["default"] == 1
    with pytest.raises(PoiseError, match="threshold 2"):
        find_clusters(source, "answer", 2)
    with pytest.raises(PoiseError, match="no qa rows"):
        find_clusters(tables(tmp_path / "c", [PromptRecord(prompt="p")]), "answer")


def test_the_split_keeps_clusters_together_and_judgements_with_their_response(tmp_path: Path) -> None:
    answers = [
        qa(f"{VIOLIN} {number * 7919} {number}" if number % 2 else f"{number} {TEAPOT}", "r") for number in range(40)
    ]
    different = [qa("".join(chr(97 + (number * k) % 26) for k in range(1, 40)), "r") for number in range(60)]
    rows = [*answers, *different, *map(judged, answers + different)]
    found = split_tables(tables(tmp_path / "a", rows), tmp_path / "b", 0.3, seed=1)
    splits = {record.item: record.split for record in found["qa"].records() if isinstance(record, QARecord)}
    assert 0.2 <= list(splits.values()).count("test") / len(splits) <= 0.4
    assert table_leaks(found) == 0
    for record in found["judgements"].records():
        assert isinstance(record, JudgementRecord) and record.split == splits[record.item]
    again = split_tables(tables(tmp_path / "c", rows[::-1]), tmp_path / "d", 0.3, seed=1)
    assert {r.item: r.split for r in again["qa"].records() if isinstance(r, QARecord)} == splits


def test_a_leak_is_found(tmp_path: Path) -> None:
    rows = [
        QARecord(prompt=TEAPOT, response="a", split="train"),
        QARecord(prompt=TEAPOT + ".", response="a", split="test"),
    ]
    assert table_leaks(tables(tmp_path / "a", rows)) == 1
    assert table_leaks(tables(tmp_path / "b", rows[:1])) == 0
    with pytest.raises(PoiseError, match="test share"):
        split_tables(tables(tmp_path / "c", rows), tmp_path / "d", 1.0, seed=0)
