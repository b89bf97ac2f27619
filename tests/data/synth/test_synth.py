"""The generator meets what is published, plants what it says, and gives the same bytes again."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from poise.data.audit import audit
from poise.data.neardup import clusters, jaccard
from poise.data.synth import Plant, Size, synthesize
from poise.data.synth import marginals as m
from poise.data.synth.plant import BREAKS
from poise.data.synth.texts import texts
from poise.data.tables import open_tables
from poise.data.validate import validate
from poise.errors import PoiseError
from poise.harm import CATEGORIES


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus built to the published dual train split, with its eight contradictions."""
    folder = tmp_path_factory.mktemp("published") / "tables"
    synthesize(folder, Size.published(), 0, Plant(contradictions=True))
    return folder


@pytest.fixture(scope="module")
def published(built: Path) -> dict:
    """The audit of it."""
    return audit(open_tables(built))


def columns(folder: Path, unit: str, *names: str) -> list:
    """Whole columns of a unit, read without the audit."""
    table = pa.Table.from_batches(list(open_tables(folder)[unit].batches(names)))
    return [table[name].combine_chunks() for name in names]


def test_published_counts_of_rows_and_answers(published: dict) -> None:
    assert published["rows"]["default"] == {"not split": 73_907}
    assert published["rows"]["single-dimension"] == {"not split": 72_996}
    assert published["prompts"]["default"] == 38_641
    assert published["subsets"]["default"] == {"Alpaca-7B": 27_393, "Alpaca2-7B": 25_564, "Alpaca3-8B": 20_950}
    assert published["prompt_sources"]["default"] == {
        "Alpaca3-70B": 48_553,
        "BeaverTails": 14_716,
        "WizardLM-30B-Uncensored": 10_638,
    }
    answers = published["answers"]["default"]
    assert (answers["safe"]["count"], answers["unsafe"]["count"]) == (71_689, 76_125)
    assert answers["severity"] == {"0": 71_689, "1": 9_104, "2": 56_537, "3": 10_484}
    assert answers["contradictions"] == {"count": 8, "of": 147_814}


def test_published_counts_without_the_audit(built: Path) -> None:
    """The same counts by a few lines of NumPy, so that an error of the audit cannot hide one of the generator."""
    names = [f"is_response_{i}_safe" for i in (0, 1)] + [f"response_{i}_severity_level" for i in (0, 1)]
    *labels, better, safer, first, second = (
        column.to_numpy(zero_copy_only=False)
        for column in columns(
            built,
            "default",
            *names,
            "better_response_id",
            "safer_response_id",
            "response_0_sha256",
            "response_1_sha256",
        )
    )
    safe, severity = np.concatenate(labels[:2]), np.concatenate(labels[2:])
    flags = [columns(built, "default", f"response_{i}_harm_category")[0].flatten() for i in (0, 1)]
    sets = np.concatenate([np.stack([f.to_numpy(zero_copy_only=False) for f in side], axis=1) for side in flags])
    assert np.bincount(severity).tolist() == [71_689, 9_104, 56_537, 10_484]
    assert (safe.sum(), (~safe).sum(), (safe != (severity == 0)).sum()) == (71_689, 76_125, 8)
    assert ((severity == 0) == (sets.sum(axis=1) == 0)).all()
    # worked from the table: Cybercrime 206 / 18,651 / 3,979; Sexual Content 1,792 answers, 15 % of them alone
    assert np.bincount(severity[sets[:, 13]]).tolist() == [0, 206, 18_651, 3_979]
    assert round((sets[:, 12] & (sets.sum(axis=1) == 1)).sum() / 1_792, 2) == 0.15
    assert round((sets[:, 17] & sets[:, 8]).sum() / 9_846, 2) == 0.84  # Economic given White-Collar
    assert (better != safer).sum() == 17_798
    dual = {frozenset(pair) for pair in zip(first, second, strict=True)}
    single = [c.to_pylist() for c in columns(built, "single-dimension", "response_0_sha256", "response_1_sha256")]
    assert sum(frozenset(pair) in dual for pair in zip(*single, strict=True)) == 64_640


def test_every_hash_is_right_and_every_answer_of_a_pair_is_in_qa(built: Path) -> None:
    prompts, answers, hashes = (column.to_pylist() for column in columns(built, "qa", "prompt", "response", "sha256"))
    for prompt, answer, sha256 in list(zip(prompts, answers, hashes, strict=True))[::50]:
        assert hashlib.sha256((prompt + answer).encode()).hexdigest() == sha256
    assert len(set(hashes)) == len(set(answers)) == len(answers)
    for unit in ("default", "single-dimension"):
        for column in columns(built, unit, "response_0_sha256", "response_1_sha256"):
            assert set(column.to_pylist()) <= set(hashes)


def test_published_counts_of_categories(published: dict) -> None:
    found = {entry["category"]: entry for entry in published["categories"]}
    for category, (minor, moderate, severe, alone) in zip(CATEGORIES, m.CATEGORIES, strict=True):
        entry = found[category.value]
        assert entry["severity"] == {"1": minor, "2": moderate, "3": severe}
        assert entry["answers"] == minor + moderate + severe
        assert round(entry["alone"]["share"], 2) == alone


def test_published_co_occurrence(published: dict) -> None:
    names = published["co_occurrence"]["categories"]
    given = published["co_occurrence"]["conditional"]

    def p(row: str, column: str) -> float:
        return round(given[names.index(row)][names.index(column)], 2)

    assert p("Economic Crime", "White-Collar Crime") == 0.84
    assert p("Insulting Behavior", "Discriminatory Behavior") == 0.66
    assert p("Cybercrime", "Privacy Violation") == 0.58
    assert p("Physical Harm", "Violence") == 0.52


def test_published_pairs_and_preferences(published: dict) -> None:
    states = published["pairs"]["states"]
    assert [round(states[name]["share"], 3) for name in ("both_safe", "mixed", "both_unsafe")] == [0.412, 0.146, 0.442]
    assert published["pairs"]["better_is_not_safer"]["count"] == 17_798
    assert published["pairs"]["order_violations"] == {"count": 0, "of": states["mixed"]["count"]}
    assert [round(rung["share"], 3) for rung in published["ladder"]] == [0.6, 0.174, 0.08, 0.146]
    both = published["dual_and_single"]
    assert (both["matched"], both["conflicts"]) == (64_640, 15_590)
    keys = ("follows_better", "follows_safer", "picks_safe_at_boundary", "contradicts_both")
    assert [round(both[key]["share"], 3) for key in keys] == [0.493, 0.507, 0.74, 0.086]


def test_a_small_corpus_keeps_the_proportions(tmp_path: Path) -> None:
    synthesize(tmp_path / "a", 0.01, seed=3)
    found = audit(open_tables(tmp_path / "a"))
    assert {unit: sum(splits.values()) for unit, splits in found["rows"].items()} == {
        "default": 834,
        "single-dimension": 811,
        "qa": 2650,
        "prompt": 446,
    }
    assert found["pairs"]["states"]["mixed"]["share"] == pytest.approx(0.146, abs=0.002)
    severity = found["answers"]["default"]["severity"]
    assert severity["2"] / sum(severity.values()) == pytest.approx(56_537 / 147_814, abs=0.005)
    assert validate(open_tables(tmp_path / "a")).ok


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    plant = Plant(violations=2, prompts=0.1, answers=0.1)
    for name in ("a", "b"):
        synthesize(tmp_path / name, 0.003, 5, plant)
    synthesize(tmp_path / "c", 0.003, 6, plant)
    content = [
        {
            path.relative_to(tmp_path / name): path.read_bytes()
            for path in (tmp_path / name).rglob("*")
            if path.is_file()
        }
        for name in ("a", "b", "c")
    ]
    assert content[0] == content[1] != content[2]


@pytest.mark.parametrize("seed", range(20))
def test_every_planted_violation_is_found_and_nothing_else(tmp_path: Path, seed: int) -> None:
    """20 random corpora, each with and without faults: all that was planted is found, and no row more."""
    truth = synthesize(tmp_path / "bad", 0.002, seed, Plant(violations=3, prompts=0.3, answers=0.3))
    found = validate(open_tables(tmp_path / "bad"))
    planted = Counter(rule for rule, _, _ in truth.violations)
    assert planted == dict.fromkeys(BREAKS, 3)
    assert {rule: n for rule, n in found.counts.items() if n} == planted
    for rule in BREAKS:
        assert sorted(found.examples[rule]) == sorted(f"{u}/{row}" for r, u, row in truth.violations if r == rule)
    if seed < 5:
        synthesize(tmp_path / "good", 0.002, seed)
        assert validate(open_tables(tmp_path / "good")).counts == dict.fromkeys(found.counts, 0)


def test_planted_near_duplicates_are_where_the_truth_says(tmp_path: Path) -> None:
    truth = synthesize(tmp_path / "a", 0.003, 1, Plant(prompts=0.1, answers=0.2))
    written = json.loads((tmp_path / "a" / "truth.json").read_text())
    assert written["near_duplicates"] == [list(entry) for entry in truth.near_duplicates]
    tables = open_tables(tmp_path / "a")
    prompts = [text for batch in tables["prompt"].batches(["prompt"]) for text in batch["prompt"].to_pylist()]
    answers = [text for batch in tables["qa"].batches(["response"]) for text in batch["response"].to_pylist()]
    kinds = Counter((unit, kind) for unit, _, _, kind, _ in truth.near_duplicates)
    assert len(kinds) == 6 and min(kinds.values()) >= 1
    for unit, row, origin, kind, alike in truth.near_duplicates:
        rows = prompts if unit == "prompt" else answers
        assert rows[row] != rows[origin]
        assert alike == pytest.approx(by_hand(rows[row], rows[origin]), abs=1e-4)
        assert (alike == 1) == (kind == "case")
    graded = [alike for unit, _, _, kind, alike in truth.near_duplicates if (unit, kind) == ("qa", "words")]
    assert min(graded) < 0.7 < max(graded)
    copied = [row for unit, *rows, _, _ in truth.near_duplicates if unit == "qa" for row in rows]
    assert len(copied) == len(set(copied))


def by_hand(text_a: str, text_b: str) -> float:
    """Jaccard similarity from its definition."""
    a, b = ({t[i : i + 5] for i in range(len(t) - 4)} for t in (" ".join(x.lower().split()) for x in (text_a, text_b)))
    return len(a & b) / len(a | b)


def test_rows_of_copied_answers_agree_with_each_other(tmp_path: Path) -> None:
    """A copy answers the prompt of its original in every unit, under the source that this prompt has."""
    synthesize(tmp_path / "a", 0.01, 2, Plant(prompts=0.2, answers=0.4))
    prompts, sources = (column.to_pylist() for column in columns(tmp_path / "a", "prompt", "prompt", "prompt_source"))
    source = dict(zip(prompts, sources, strict=True))
    assert len(source) == len(prompts)
    hashes = set(columns(tmp_path / "a", "qa", "sha256")[0].to_pylist())
    for unit in ("qa", "default", "single-dimension"):
        asked, said = (column.to_pylist() for column in columns(tmp_path / "a", unit, "prompt", "prompt_source"))
        assert [source[prompt] for prompt in asked] == said
        for name in ("response_0_sha256", "response_1_sha256") if unit != "qa" else ():
            assert set(columns(tmp_path / "a", unit, name)[0].to_pylist()) <= hashes


def test_nothing_but_the_planted_copies_is_a_near_duplicate(tmp_path: Path) -> None:
    synthesize(tmp_path / "a", 0.01, 4)
    asked, said = (column.to_pylist() for column in columns(tmp_path / "a", "qa", "prompt", "response"))
    together = [f"{prompt}\n{answer}" for prompt, answer in zip(asked, said, strict=True)]
    for found in (columns(tmp_path / "a", "prompt", "prompt")[0].to_pylist(), together):
        assert clusters(found).tolist() == list(range(len(found)))


def test_texts_are_a_function_of_their_id_and_no_near_duplicates() -> None:
    ids = np.arange(200)
    every = texts(1, 100, ids, 80.0)
    assert texts(1, 100, ids[::-1][:5], 80.0) == every[::-1][:5]
    assert len(set(every)) == 200
    words = np.array([len(text.split()) for text in every])
    assert 60 < words.mean() < 100 and words.min() >= 4
    assert max(jaccard(every[0], other) for other in every[1:]) < 0.5


@pytest.mark.parametrize("wrong", [{"prompts": 0.6}, {"answers": -0.1}, {"violations": -1}])
def test_an_impossible_plant_says_so(wrong: dict) -> None:
    with pytest.raises(PoiseError, match=next(iter(wrong))):
        Plant(**wrong)


def test_no_room_for_violations_says_so(tmp_path: Path) -> None:
    with pytest.raises(PoiseError, match="no room"):
        synthesize(tmp_path / "a", 0.002, 0, Plant(violations=500))
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize("scale", [0.0, -1.0, 0.0001])
def test_an_impossible_size_says_so(tmp_path: Path, scale: float) -> None:
    with pytest.raises(PoiseError, match="scale"):
        synthesize(tmp_path / "a", scale, 0)
    with pytest.raises(PoiseError, match="answers for"):
        synthesize(tmp_path / "a", Size(10, 10, 10, 10), 0)
