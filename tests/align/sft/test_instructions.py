"""Rows of instruction files: three shapes, and a reason for every row that is left out."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from poise.align.sft.instructions import BadRowError, conversation, read_instructions
from poise.errors import PoiseError


def turns(*texts: str, first: str = "user") -> list[dict[str, str]]:
    other = {"user": "assistant", "assistant": "user"}
    roles = [first if at % 2 == 0 else other[first] for at in range(len(texts))]
    return [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "Add.", "input": "1 and 2", "output": "3"}, turns("Add. 1 and 2", "3")),
        ({"instruction": "Add.", "input": "", "output": "3"}, turns("Add.", "3")),
        ({"prompt": "Hi", "response": " Hello\n"}, turns("Hi", " Hello\n")),
        ({"prompt": "Hi", "input": "there", "completion": "Hello"}, turns("Hi there", "Hello")),
        ({"prompt": "Hi", "input": None, "response": "Hello", "id": 3}, turns("Hi", "Hello")),
        ({"messages": turns("Hi", "Hello", "And?", "Bye")}, turns("Hi", "Hello", "And?", "Bye")),
    ],
)
def test_the_shapes_of_a_row(row: dict[str, Any], expected: list[dict[str, str]]) -> None:
    assert conversation(row) == expected


def test_a_system_message_may_come_first_and_be_empty() -> None:
    messages = [{"role": "system", "content": ""}, *turns("Hi", "Hello")]
    assert conversation({"messages": [{**message, "extra": 1} for message in messages]}) == messages


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": "Hi"}, "no-prompt"),
        ({"instruction": "Hi"}, "no-response"),
        ({"prompt": "Hi", "response": None}, "no-response"),
        ({"prompt": "Hi", "response": 3}, "not-a-text"),
        ({"prompt": "Hi", "input": ["x"], "response": "Hello"}, "not-a-text"),
        ({"prompt": " ", "response": "Hello"}, "empty-prompt"),
        ({"prompt": "Hi", "response": "\n"}, "empty-response"),
        ({"prompt": "Hi", "response": "\ud800"}, "encoding"),
        ({"messages": "Hi"}, "messages-no-list"),
        ({"messages": ["Hi"]}, "messages-no-list"),
        ({"messages": []}, "messages-order"),
        ({"messages": turns("Hi")}, "messages-order"),
        ({"messages": turns("Hello", "Hi", first="assistant")}, "messages-order"),
        ({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant"}]}, "not-a-text"),
    ],
)
def test_reasons(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadRowError, match=f"^{reason}$"):
        conversation(row)


def test_containers_and_counts(tmp_path: Path) -> None:
    good = {"prompt": "Hi", "response": "Hello"}
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write(json.dumps(good) + "\n{broken\n[1]\n" + json.dumps({"prompt": "Hi"}) + "\n")
    (tmp_path / "b.json").write_text(json.dumps([{"instruction": "Hi", "input": "", "output": "Hello"}] * 2))
    pq.write_table(pa.Table.from_pylist([{"messages": turns("Hi", "Hello")}]), tmp_path / "c.parquet")
    read = read_instructions(tmp_path)
    assert read.conversations == [turns("Hi", "Hello")] * 4
    assert read.dropped == {"broken-json": 1, "not-an-object": 1, "no-response": 1}
    (tmp_path / "b.json").write_text(json.dumps([good]))
    assert read_instructions(tmp_path).sha256 != read.sha256


def test_no_usable_row_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n')
    with pytest.raises(PoiseError, match=r"x.jsonl: no row can be learnt from \(no-prompt 2\)"):
        read_instructions(path)
    path.write_text("")
    with pytest.raises(PoiseError, match="it is empty"):
        read_instructions(path)
