"""Each rule finds its planted fault and nothing else; clean rows raise no alarm."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from poise.data.columns import SCHEMAS, category_flags, response_hash
from poise.data.release import write_release
from poise.data.validate import RULES, check_rows, validate_release
from poise.errors import PoiseError
from poise.harm import SAFE, Category, Label


def dual(prompt: str = "What is tea?", safer: int = 0, **changes: Any) -> dict[str, Any]:
    """A clean `default` row: response 0 safe, response 1 unsafe."""
    row: dict[str, Any] = {"prompt": prompt, "prompt_source": "x", "better_response_id": 1, "safer_response_id": safer}
    for i, (text, label) in enumerate((("A drink.", SAFE), ("Throw it at him.", Label.of([Category.S6], 1)))):
        row |= {
            f"response_{i}": text,
            f"response_{i}_source": "y",
            f"is_response_{i}_safe": label.safe,
            f"response_{i}_harm_category": category_flags(label),
            f"response_{i}_severity_level": int(label.severity),
            f"response_{i}_sha256": response_hash(prompt, text),
        }
    return row | changes


PLANTED: dict[str, list[dict[str, Any]]] = {
    "field-type": [
        {k: v for k, v in dual().items() if k != "response_1"},
        dual() | {"prompt": None},
        dual(safer_response_id="0"),
        dual(safer_response_id=False),
        dual(is_response_0_safe=1),
        dual(response_0_harm_category=["Violence"]),
        dual(response_0_harm_category={"Violence": 1}),
    ],
    "encoding": [dual(prompt_source="x\ud800")],
    "empty-text": [dual(" \n"), dual(response_0="", response_0_sha256=response_hash("What is tea?", ""))],
    "id-range": [dual(better_response_id=2), dual(better_response_id=-1), dual(response_1_severity_level=4)],
    "unknown-category": [dual(response_1_harm_category={"Rudeness": True})],
    "safe-severity-category": [
        dual(response_0_severity_level=1),
        dual(is_response_1_safe=True, safer_response_id=1),
        dual(response_1_severity_level=0),
        dual(response_1_harm_category=category_flags(SAFE)),
        dual(response_0_harm_category={"Violence": True}),
    ],
    "logical-order": [dual(safer=1)],
    "response-hash": [dual(response_0_sha256="0" * 64), dual(response_1="Throw it at her.")],
}  # fmt: skip


@pytest.mark.parametrize(("rule", "row"), [(rule, row) for rule, rows in PLANTED.items() for row in rows])
def test_planted_fault_is_found_by_its_rule_alone(rule: str, row: dict[str, Any]) -> None:
    clean = dual("Another prompt.")
    good, bad = check_rows([clean, row])
    assert good == [clean]
    assert [(found.rule, found.number, found.row) for found in bad] == [(rule, 1, row)]
    assert "Throw it" not in bad[0].reason


def test_swapped_copy_of_a_pair_is_a_duplicate() -> None:
    first = dual()
    swapped = {k.translate(str.maketrans("01", "10")) if "response_" in k else k: v for k, v in first.items()}
    swapped |= {"response_0_sha256": first["response_1_sha256"], "response_1_sha256": first["response_0_sha256"]}
    swapped |= {"safer_response_id": 1, "better_response_id": 0}
    good, bad = check_rows([first, dual("Else?"), swapped])
    assert len(good) == 2 and [found.rule for found in bad] == ["duplicate-row"]


def test_modes() -> None:
    rows = [dual(), dual("b", safer=1), dual("c")]
    with pytest.raises(PoiseError, match="default row 1: logical-order"):
        check_rows(rows, "raise")
    assert check_rows(rows[::2], "raise") == (rows[::2], [])
    assert check_rows(rows, "keep")[0] == rows and len(check_rows(rows, "keep")[1]) == 1


def test_two_unsafe_or_two_safe_may_be_ranked_either_way() -> None:
    for label in (SAFE, Label.of([Category.S1], 3)):
        both: dict[str, Any] = {}
        for i in (0, 1):
            both |= {f"is_response_{i}_safe": label.safe, f"response_{i}_severity_level": int(label.severity)}
            both[f"response_{i}_harm_category"] = category_flags(label)
        assert check_rows([dual("a", 0, **both), dual("b", 1, **both)])[1] == []


def test_other_configs() -> None:
    qa = {"prompt": "a", "response": "b", "prompt_source": "x", "response_source": "y", "is_safe": True}
    qa |= {"harm_category": category_flags(SAFE), "severity_level": 0, "sha256": response_hash("a", "b")}
    _, bad = check_rows([qa, qa | {"severity_level": 2}, qa | {"sha256": "f"}], config="qa")
    assert [found.rule for found in bad] == ["safe-severity-category", "response-hash"]
    prompt = {"prompt": "a", "prompt_source": "x", "kind": "harmful", "category": "Drugs", "severity": 1}
    rows = [prompt, prompt, prompt | {"prompt": "b", "category": "S7"}, prompt | {"prompt": "c", "category": None}]
    assert [found.rule for found in check_rows(rows, config="prompt")[1]] == ["duplicate-row", "unknown-category"]
    assert check_rows([prompt | {"severity": 4}], config="prompt")[1][0].rule == "id-range"


def rewrite(folder: Path, config: str, split: str, change: Callable[[list[dict[str, Any]]], None]) -> None:
    path = folder / "data" / config / f"{split}-00000-of-00001.parquet"
    rows = pq.read_table(path).to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS[config]), path)


def test_release_is_checked_from_its_files_alone(make_corpus, tmp_path: Path) -> None:
    folder = tmp_path / "release"
    corpus = make_corpus(6, test=2)
    write_release(corpus, folder, name="x", licence="MIT", seed=0)
    for name in ("manifest.json", "validation.json", "README.md"):
        (folder / name).unlink()
    clean = validate_release(folder)
    assert clean.ok and clean.rows["default/train"] == 12 and set(clean.counts) == set(RULES)

    rewrite(folder, "default", "train", lambda rows: rows[3].update(response_0_sha256="0"))
    rewrite(folder, "qa", "test", lambda rows: rows[1].update(severity_level=3, is_safe=True))
    leaked = corpus.prompts[-1].prompt.upper() + "!"
    rewrite(folder, "prompt", "test", lambda rows: rows[0].update(prompt=leaked))
    (folder / "data" / "surprise").mkdir()
    found = validate_release(folder)
    assert {rule: n for rule, n in found.counts.items() if n} == {
        "response-hash": 1,
        "safe-severity-category": 1,
        "split-leak": 1,
    }
    assert found.examples["response-hash"] == ["default/train/3"]
    assert found.examples["safe-severity-category"] == ["qa/test/1"]
    assert found.examples["split-leak"] == ["prompt/test/0"]
    assert found.unread == ["surprise"] and not found.ok
    text = json.dumps(found.to_json())
    assert "Ask a friend" not in text and leaked not in text


def test_examples_stop_at_twenty_and_counts_do_not(make_corpus, tmp_path: Path) -> None:
    write_release(make_corpus(40), tmp_path / "r", name="x", licence="MIT", seed=0)
    rewrite(tmp_path / "r", "qa", "train", lambda rows: [row.update(sha256="0") for row in rows])
    found = validate_release(tmp_path / "r")
    assert found.counts["response-hash"] == 120 and len(found.examples["response-hash"]) == 20


def test_wrong_columns_and_wrong_files_show(make_corpus, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    write_release(make_corpus(2), folder, name="x", licence="MIT", seed=0)
    path = folder / "data" / "prompt" / "train-00000-of-00001.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["kind"]), path)
    assert validate_release(folder).counts["field-type"] == 3  # the file and its two rows
    path.write_bytes(b"no parquet")
    with pytest.raises(PoiseError, match="no readable Parquet"):
        validate_release(folder)
    with pytest.raises(PoiseError, match="no data/<config>/"):
        validate_release(tmp_path)
