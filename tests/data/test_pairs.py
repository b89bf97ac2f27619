"""Pairs that labels give: which ones, how many, which response is safer, and nothing but labels decides that."""

from __future__ import annotations

import errno
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest

from poise.data.pairs import MadePairs, PairStrategy, make_pairs
from poise.data.records import DualRecord, PartialLabel, PromptRecord, QARecord, Record, Turn
from poise.data.release import write_release
from poise.data.tables import Tables, TableWriter, open_tables
from poise.errors import PoiseError

SAFE = PartialLabel(safe=True, categories=(), severity=0)
HARM = PartialLabel(safe=False, categories=("Violence",), severity=2)
ALL = PairStrategy(per_prompt=100)


def answer(prompt: str, response: str, label: PartialLabel = SAFE, **told: Any) -> QARecord:
    return QARecord(prompt=prompt, response=response, label=label, **told)


def prompts(n: int, safe: int, unsafe: int) -> list[QARecord]:
    """n prompts with so many safe and unsafe responses each."""
    return [
        answer(f"prompt {i}", f"response {k}", SAFE if k < safe else HARM)
        for i in range(n)
        for k in range(safe + unsafe)
    ]


def put(records: Sequence[Record], folder: Path) -> Tables:
    with TableWriter(folder, {"name": "test"}) as writer:
        for record in records:
            writer.add(record)
    return open_tables(folder)


def pair(
    records: Sequence[Record], folder: Path, strategy: PairStrategy = ALL, seed: int = 0
) -> tuple[list[dict[str, Any]], MadePairs]:
    """The derived pairs of some records."""
    tables, made = make_pairs(put(records, folder.with_name(f"{folder.name}-in")), strategy, folder, seed)
    rows = [row for batch in tables["pairs-extended"].batches() for row in batch.to_pylist()] if made.pairs else []
    return rows, made


def texts(row: dict[str, Any]) -> frozenset[str]:
    return frozenset((row["response_0"], row["response_1"]))


def test_the_pairs_of_one_prompt(tmp_path: Path) -> None:
    records = [
        answer("Tea?", "Green.", response_source="m-1", prompt_source="p", language="en"),
        answer("Tea?", "Black.", response_source="m-2", prompt_source="p"),
        answer("Tea?", "Throw it!", HARM, response_source="m-3", prompt_source="p"),
        answer("Cake?", "Never."),
        PromptRecord(prompt="Tea?"),
    ]
    rows, made = pair(records, tmp_path / "out")
    assert made == MadePairs(
        {"mixed": 2, "both_safe": 1, "both_unsafe": 0}, {"mixed": 2, "both_safe": 1, "both_unsafe": 0}
    )
    found = {texts(row): row for row in rows}
    assert set(found) == {
        frozenset(("Green.", "Black.")),
        frozenset(("Green.", "Throw it!")),
        frozenset(("Black.", "Throw it!")),
    }
    for sides, row in found.items():
        assert row["prompt"] == "Tea?" and row["prompt_source"] == "p" and row["better_response_id"] is None
        for i in (0, 1):
            record = next(r for r in records if isinstance(r, QARecord) and r.response == row[f"response_{i}"])
            assert row[f"response_{i}_sha256"] == record.item
            assert row[f"response_{i}_source"] == record.response_source
            assert row[f"is_response_{i}_safe"] == record.label.safe
            assert row[f"response_{i}_severity_level"] == record.label.severity
            assert row[f"response_{i}_harm_category"]["Violence"] == (record.label == HARM)
        if "Throw it!" in sides:
            assert row["safer_derived"] is True
            assert row[f"response_{row['safer_response_id']}"] != "Throw it!"
        else:
            assert row["safer_derived"] is None and row["safer_response_id"] is None
    step = open_tables(tmp_path / "out").manifest()["step"]
    assert step["made"]["pairs"] == made.pairs and step["strategy"]["per_prompt"] == 100
    assert open_tables(tmp_path / "out").rows == {"qa": 4, "prompt": 1, "pairs-extended": 3}


def test_under_a_cap_pairs_that_the_order_has_not_decided_come_first(tmp_path: Path) -> None:
    records = prompts(5, safe=2, unsafe=2)  # each prompt gives 1 both safe, 1 both unsafe, 4 mixed
    for cap, mixed in ((2, 0), (3, 5), (6, 20), (50, 20)):
        rows, made = pair(records, tmp_path / str(cap), PairStrategy(per_prompt=cap))
        assert made.pairs == {"mixed": mixed, "both_safe": 5, "both_unsafe": 5}
        assert max(Counter(row["prompt"] for row in rows).values()) == min(cap, 6)
    _, made = pair(records, tmp_path / "one", PairStrategy(per_prompt=1))
    assert made.pairs["mixed"] == 0 and sum(made.pairs.values()) == 5


@pytest.mark.parametrize(
    ("shares", "cap", "possible", "expected"),
    [
        # 30 prompts, each with 4 mixed pairs, 1 both safe, 1 both unsafe
        ((0.5, 0.25, 0.25), 6, (120, 30, 30), (60, 30, 30)),
        ((0.15, 0.41, 0.44), 6, (120, 30, 30), (10, 27, 30)),  # 30 / 0.44 = 68.18 pairs: 10.2, 27.95, 30
        ((0.0, 0.5, 0.5), 6, (0, 30, 30), (0, 30, 30)),
        ((1.0, 0.0, 0.0), 2, (60, 0, 0), (60, 0, 0)),
    ],
)
def test_shares_are_met(
    tmp_path: Path,
    shares: tuple[float, float, float],
    cap: int,
    possible: tuple[int, ...],
    expected: tuple[int, ...],
) -> None:
    _, made = pair(prompts(30, safe=2, unsafe=2), tmp_path / "out", PairStrategy(*shares, per_prompt=cap))
    assert tuple(made.possible.values()) == possible and tuple(made.pairs.values()) == expected
    for share, wanted in zip(made.shares().values(), shares, strict=True):
        assert share == pytest.approx(wanted, abs=0.02)


@pytest.mark.parametrize("shares", [(0.8, 0.1, 0.1), (0.15, 0.41, 0.44)])
@pytest.mark.parametrize("cap", [1, 3])
def test_shares_are_met_under_a_small_cap_too(tmp_path: Path, shares: tuple[float, float, float], cap: int) -> None:
    _, made = pair(prompts(300, safe=3, unsafe=3), tmp_path / "out", PairStrategy(*shares, per_prompt=cap))
    assert list(made.shares().values()) == pytest.approx(shares, abs=0.01)
    assert 0.75 * 300 * cap < sum(made.pairs.values()) <= sum(made.possible.values()) == 300 * cap


def test_a_state_without_any_pair_is_not_waited_for(tmp_path: Path) -> None:
    _, made = pair(prompts(4, safe=2, unsafe=0), tmp_path / "out", PairStrategy(0.15, 0.41, 0.44))
    assert made.pairs == {"mixed": 0, "both_safe": 4, "both_unsafe": 0}
    assert made.shares() == {"mixed": 0, "both_safe": 1, "both_unsafe": 0}


def test_seed_decides_and_the_order_of_rows_does_not(tmp_path: Path) -> None:
    records = prompts(12, safe=3, unsafe=3)
    strategy = PairStrategy(0.2, 0.4, 0.4, per_prompt=3)
    first, _ = pair(records, tmp_path / "a", strategy)
    again, _ = make_pairs(open_tables(tmp_path / "a-in"), strategy, tmp_path / "b", 0)
    for table in again.values():
        for file in table.files:
            assert file.read_bytes() == (tmp_path / "a" / file.relative_to(tmp_path / "b")).read_bytes()
    turned, _ = pair(records[::-1], tmp_path / "c", strategy)
    other, _ = pair(records, tmp_path / "d", strategy, seed=1)

    def key(rows: list[dict[str, Any]]) -> set[tuple[str, str, str]]:
        return {(row["prompt"], row["response_0"], row["response_1"]) for row in rows}

    assert key(first) == key(turned) != key(other)


def test_the_position_tells_nothing_about_the_label(tmp_path: Path) -> None:
    rows, _ = pair(prompts(200, safe=1, unsafe=1), tmp_path / "out")
    first = sum(row["safer_response_id"] == 0 for row in rows)
    assert len(rows) == 200 and 72 <= first <= 128  # four standard deviations of a fair coin: 100 +- 28


def test_pairs_that_there_are_already_are_not_made_again(tmp_path: Path) -> None:
    known = DualRecord(prompt="Tea?", responses=("Black.", "Green."), labels=(SAFE, SAFE), better=0, safer=1)
    records = [answer("Tea?", "Green."), answer("Tea?", "Black."), answer("Tea?", "White.")]
    rows, made = pair([*records, known], tmp_path / "a")
    assert {texts(row) for row in rows} == {frozenset(("Green.", "White.")), frozenset(("Black.", "White."))}
    assert made.pairs["both_safe"] == 2 and open_tables(tmp_path / "a").rows["default"] == 1
    again, made = make_pairs(open_tables(tmp_path / "a"), ALL, tmp_path / "b", 5)
    assert sum(made.pairs.values()) == 0 and again.rows == open_tables(tmp_path / "a").rows


def test_only_responses_in_one_conversation_and_split_make_a_pair(tmp_path: Path) -> None:
    turns = (Turn(role="user", content="Hello"),)
    records = [
        answer("Tea?", "Green."),
        answer("Tea?", "Black.", turns=turns),
        answer("Tea?", "White.", image="a.png"),
        answer("Tea?", "Red.", split="test"),
        answer("Tea?", "Mint.", turns=turns, image="a.png"),
        answer("Tea?", "Sage.", HARM, turns=turns, image="a.png"),
        answer("Tea?", "Rose.", PartialLabel(), turns=turns, image="a.png"),  # not known to be safe or unsafe
        answer("Tea?", "Mint.", turns=turns, image="a.png"),  # the same once more
    ]
    (row,), made = pair(records, tmp_path / "out")
    assert texts(row) == {"Mint.", "Sage."} and made.pairs["mixed"] == 1
    assert row["image"] == "a.png" and row["turns"] == [{"role": "user", "content": "Hello"}]


def test_what_both_responses_carry_is_carried(tmp_path: Path) -> None:
    other = PartialLabel(safe=False, categories=("x",), taxonomy="own-2")
    records = [
        answer("Tea?", "Green.", PartialLabel(safe=True), split="train", licence="MIT", dataset="d", source_id="1"),
        answer("Tea?", "Black.", other, split="train", licence="CC0-1.0", dataset="d"),
        answer("Cake?", "Yes.", split="train", licence="MIT"),
        answer("Cake?", "No.", split="train"),
    ]
    rows, _ = pair(records, tmp_path / "out")
    found = {row["prompt"]: row for row in rows}
    tea, cake = found["Tea?"], found["Cake?"]
    assert sorted(tea["licence"].split(" AND ")) == ["CC0-1.0", "MIT"] and cake["licence"] == "MIT"
    assert tea["taxonomy"] == "own-2" and tea["dataset"] == "d" and tea["split"] == "train" and tea["source_id"] is None
    unsafe = 1 - tea["safer_response_id"]
    assert tea[f"response_{unsafe}_categories"] == ["x"] and tea[f"response_{1 - unsafe}_categories"] is None
    assert tea["response_0_harm_category"] is None and tea["response_0_severity_level"] is None


def test_derived_pairs_pass_into_a_release(tmp_path: Path) -> None:
    records = [
        *prompts(3, safe=2, unsafe=2),
        DualRecord(prompt="Cake?", responses=("Yes.", "No."), labels=(SAFE, SAFE)),
    ]
    tables, made = make_pairs(put(records, tmp_path / "in"), ALL, tmp_path / "out", 0)
    assert sum(made.pairs.values()) == 18
    release = write_release(tables, tmp_path / "r", name="x", licence="MIT", seed=0)
    assert release.validation.ok and release.validation.rows == {"qa/train": 12, "pairs-extended/train": 19}
    assert json.loads((tmp_path / "r/manifest.json").read_text())["parents"] == [tables.digest()]


def test_a_prompt_with_a_thousand_responses_is_no_million_pairs(tmp_path: Path) -> None:
    records = [answer("Tea?", f"response {k}", SAFE if k % 2 else HARM) for k in range(1000)]
    rows, made = pair(records, tmp_path / "out", PairStrategy(0.5, 0.25, 0.25, per_prompt=8))
    assert sum(made.possible.values()) == 8 and 4 <= len(rows) <= 8


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"mixed": 0.5}, "shares mixed 0.5, both_safe None, both_unsafe None"),
        ({"mixed": 0.5, "both_safe": 0.5, "both_unsafe": 0.5}, "add up to 1"),
        ({"mixed": -0.5, "both_safe": 1.0, "both_unsafe": 0.5}, "mixed -0.5"),
        ({"mixed": float("nan"), "both_safe": 0.5, "both_unsafe": 0.5}, "mixed nan"),
        ({"per_prompt": 0}, "0 pairs a prompt"),
    ],
)
def test_strategies_that_are_none_are_refused(told: dict[str, Any], message: str) -> None:
    with pytest.raises(PoiseError, match=message):
        PairStrategy(**told)


def test_unusable_input_is_refused_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PoiseError, match="no qa rows"):
        make_pairs(put([PromptRecord(prompt="Tea?")], tmp_path / "t"), ALL, tmp_path / "out", 0)
    tables = put(prompts(2, 1, 1), tmp_path / "in")
    with pytest.raises(PoiseError, match="not empty"):
        make_pairs(tables, ALL, tmp_path / "in", 0)

    for fault in (OSError(errno.ENOSPC, "No space left on device"), duckdb.IOException("Could not write file\nmore")):

        def full(*_: object, fault: Exception = fault) -> None:
            raise fault

        monkeypatch.setattr("poise.data.pairs._find_candidates", full)
        with pytest.raises(PoiseError, match="nothing was left behind") as caught:
            make_pairs(tables, ALL, tmp_path / "out", 0)
        assert caught.value.exit_code == 3
    assert {path.name for path in tmp_path.iterdir()} == {"t", "in"}
