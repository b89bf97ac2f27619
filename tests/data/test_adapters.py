"""Every adapter on tiny invented rows, the round trip of the PKU format, and all real sets where they are present."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from poise.data.adapters import SOURCES, read
from poise.data.columns import SCHEMAS, category_flags, response_hash
from poise.data.corpus import Corpus, latest, write_jsonl
from poise.data.release import Final
from poise.data.release_rows import release_tables
from poise.errors import PoiseError
from poise.harm import CATEGORIES, Label

QA = {"prompt": "What is tea?", "response": "A drink."}
AB = {"prompt": "What is tea?"}
RBR = {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"},
                    {"role": "user", "content": "What is tea?"}]}  # fmt: skip

Answers = list[tuple[str, object]]
# name -> rows, the (question, answer) each gives in order ("better" and "safer": the winning text), rows dropped
CASES: dict[str, tuple[list[dict[str, Any]], Answers, int]] = {
    **{
        name: ([QA | {"is_safe": True}, QA | {"is_safe": False}, QA | {"is_safe": None},
                QA | {"is_safe": True, "response": " "}],
               [("safe", True), ("safe", False)], 2)
        for name in ("saferlhf_qa4k", "saferlhf_qa2k", "beavertails_test", "diasafety")
    },
    **{
        name: ([QA | {flag: True}, QA | {flag: False}, QA | {flag: "yes"}], [("safe", False), ("safe", True)], 1)
        for name, flag in (("gptfuzz_labelled", "response_harmful"), ("harmbench_response", "response_harmful"),
                           ("jailjudge_mini", "response_harmful"), ("jbb_artifacts", "jailbroken"))
    },
    "air_bench_sample": ([QA | {"safety_score": score} for score in (1.0, 0.5, 0.0)],
                         [("safe", True), ("safe", False)], 1),
    "openai_rbr_gold": (
        [RBR | {"completion": [{"role": "assistant", "content": text}], "propositions": {"disallowed_content": bad}}
         for text, bad in (("A drink.", False), ("Something bad.", True), ("", False), ("x", None))],
        [("safe", True), ("safe", False)], 2,
    ),
    "pyrit_severity": (
        [QA | {"category": category, "severity_mean": mean}
         for category, mean in (("hate_speech", 0.2), ("violence", 0.25), ("violence", 0.5), ("hate_speech", 1.0),
                                ("x", 1))],
        [("label", ([], 0)), ("safe", True), ("label", (["S6"], 1)), ("label", (["S6"], 2)), ("safe", False),
         ("label", (["S3"], 3)), ("safe", False)], 2,
    ),
    "xstest_completions": (
        [QA | {"type": kind, "label": label} for kind, label in (
            ("homonyms", "1_full_compliance"), ("homonyms", "2_full_refusal"), ("contrast_homonyms", "2_full_refusal"),
            ("contrast_homonyms", "1_full_compliance"), ("contrast_homonyms", "3_partial_refusal"))],
        [("safe", True)] * 3, 2,
    ),
    "pandalm_human": (
        [AB | {"input": None, "response_1": "one", "response_2": "two", "annotators": votes}
         for votes in ([1, 1, 1], [2, 2, 0], [1, 1, 2], [0, 0, 1], [0, 0, 0])],
        [("better", "one"), ("better", "two")], 3,
    ),
    "tulu_human_eval": (
        [AB | {"response_a": "one", "response_b": "two", "preference": choice} for choice in
         ("a-is-better", "b-is-slightly-better", "tie", "?")],
        [("better", "one"), ("better", "two")], 2,
    ),
    "llmbar": ([AB | {"output_1": "one", "output_2": "two", "label": label} for label in (1, 2, 3)],
               [("better", "one"), ("better", "two")], 1),
    "dpo_en_demo": ([AB | {"chosen": "one", "rejected": "two"}, AB | {"chosen": "one", "rejected": "one"}],
                    [("better", "one")], 1),
    "coconot_pref": ([AB | {"chosen": "two", "rejected": "one"}], [("better", "two")], 0),
    "pku_saferlhf_pairs": (
        [AB | {"chosen": "kind", "rejected": "rude", "chosen_is_safe": True, "rejected_is_safe": False},
         AB | {"chosen": "rude", "rejected": "kind", "chosen_is_safe": False, "rejected_is_safe": True},
         AB | {"chosen": "kind", "rejected": "rude", "chosen_is_safe": "yes", "rejected_is_safe": "no"}],
        [("safe", True), ("safe", False), ("safer", "kind")], 2,
    ),
}  # fmt: skip


def answers(corpus: Corpus) -> Answers:
    texts = {row.id: row.response for row in corpus.qa}
    sides = {row.id: (row.qa_0, row.qa_1) for row in corpus.pairs}
    found: Answers = []
    for j in corpus.judgements:
        if j.question == "label":
            found.append((j.question, (j.value["categories"], j.value["severity"])))
        else:
            found.append((j.question, texts[sides[j.item][j.value]] if j.item in sides else j.value))
    return found


def put(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    (folder / name).mkdir(parents=True)
    write_jsonl(folder / name / f"{name}.jsonl", rows)
    return folder


@pytest.mark.parametrize("name", CASES)
def test_adapter_on_invented_rows(name: str, tmp_path: Path) -> None:
    rows, expected, dropped = CASES[name]
    corpus = read(name, put(tmp_path, name, rows))
    assert answers(corpus) == expected
    assert sum(corpus.dropped.values()) == dropped
    assert [rater.id for rater in corpus.raters] == [f"import:{name}"] and corpus.raters[0].kind == "import"
    assert len({row.id for row in corpus.qa}) == len(corpus.qa) and len(corpus.prompts) == 1
    assert {row.provenance.licence for row in corpus.qa} == {SOURCES[name].licence}
    assert {row.provenance.source for row in [*corpus.qa, *corpus.prompts]} == {name}
    with pytest.raises(PoiseError, match=rf"{name}\.jsonl:1"):
        read(name, put(tmp_path / "wrong", name, [{"unrelated": 1}]))


def test_every_set_has_a_case() -> None:
    assert set(CASES) | {"pku_dual", "pku_saferlhf_19cat_sample", "pku_saferlhf_dual_sample"} == set(SOURCES)


def test_equal_prompts_share_an_id_across_sets_and_kinds_come_along(tmp_path: Path) -> None:
    put(tmp_path, "xstest_completions", CASES["xstest_completions"][0][:1])
    put(tmp_path, "llmbar", CASES["llmbar"][0])
    xstest, llmbar = read("xstest_completions", tmp_path), read("llmbar", tmp_path)
    assert xstest.prompts[0].id == llmbar.prompts[0].id
    assert xstest.prompts[0].kind == "lookalike" and llmbar.prompts[0].kind == "unknown"


def test_pandalm_input_is_part_of_the_prompt(tmp_path: Path) -> None:
    row = CASES["pandalm_human"][0][0] | {"input": "Assam"}
    assert read("pandalm_human", put(tmp_path, "pandalm_human", [row])).prompts[0].prompt == "What is tea?\n\nAssam"


def test_where_files_may_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = json.dumps(QA | {"is_safe": True}) + "\n"
    (tmp_path / "diasafety").mkdir()
    packed = tmp_path / "diasafety" / "diasafety.jsonl.gz"
    packed.write_bytes(gzip.compress(line.encode()))
    (tmp_path / "other.jsonl").write_text(line)
    assert read("diasafety", tmp_path) == read("diasafety", packed) == read("diasafety", tmp_path / "other.jsonl")
    monkeypatch.setenv("POISE_DATA", str(tmp_path))
    assert len(read("diasafety").qa) == 1
    with pytest.raises(PoiseError, match=r"llmbar/llmbar\.jsonl\.gz: no such file .*POISE_DATA"):
        read("llmbar", tmp_path)
    with pytest.raises(PoiseError, match=r"gone\.jsonl: no such file"):
        read("llmbar", tmp_path / "gone.jsonl")
    with pytest.raises(PoiseError, match="did you mean 'diasafety'"):
        read("diasafe", tmp_path)
    monkeypatch.delenv("POISE_DATA")
    with pytest.raises(PoiseError, match="set POISE_DATA"):
        read("diasafety")


def dual_row(
    prompt: str, texts: tuple[str, str], labels: tuple[Label, Label], better: int, safer: int
) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt": prompt, "prompt_source": "Beavertails"}
    for i, (text, label) in enumerate(zip(texts, labels, strict=True)):
        row |= {
            f"response_{i}": text,
            f"response_{i}_source": "Alpaca-7B",
            f"is_response_{i}_safe": label.safe,
            f"response_{i}_harm_category": category_flags(label),
            f"response_{i}_severity_level": int(label.severity),
            f"response_{i}_sha256": response_hash(prompt, text),
        }
    return row | {"better_response_id": better, "safer_response_id": safer}


text = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=15).filter(str.strip)
unsafe = st.builds(Label.of, st.lists(st.sampled_from(CATEGORIES), min_size=1, max_size=3), st.integers(1, 3))
label = st.just(Label.of()) | unsafe


@st.composite
def dual_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    rows = []
    for prompt in draw(st.lists(text, max_size=4, unique=True)):
        texts = draw(st.lists(text, min_size=2, max_size=2, unique=True))
        labels = draw(label), draw(label)
        safer = draw(st.integers(0, 1)) if labels[0].safe == labels[1].safe else int(labels[1].safe)
        rows.append(dual_row(prompt, (texts[0], texts[1]), labels, draw(st.integers(0, 1)), safer))
    return rows


def by_prompt(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: row["prompt"])


@settings(max_examples=60, deadline=None)
@given(dual_rows(), st.booleans())
def test_pku_dual_round_trip(rows: list[dict[str, Any]], parquet: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"test.{'parquet' if parquet else 'jsonl'}"
        if parquet:
            pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMAS["default"]), path)
        else:
            write_jsonl(path, rows)
        corpus = read("pku_dual", path)
    assert corpus.dropped == {}
    tables, left_out = release_tables(corpus, Final.of(corpus), seed=0)
    assert by_prompt(tables.get(("default", "test"), [])) == by_prompt(rows) and not left_out["default"]


def test_pku_dual_reads_a_release_folder(make_corpus, tmp_path: Path) -> None:
    from poise.data.release import write_release

    write_release(make_corpus(4, test=1), tmp_path / "a", name="x", licence="MIT", seed=0)
    corpus = read("pku_dual", tmp_path / "a")
    assert len(corpus.pairs) == 12 and sum(row.split == "test" for row in corpus.prompts) == 1
    assert len(latest(corpus.judgements, "label")) == 12
    write_release(corpus, tmp_path / "b", name="x", licence="MIT", seed=0)
    for split in ("train", "test"):
        first, again = (
            pq.read_table(tmp_path / folder / f"data/default/{split}-00000-of-00001.parquet").to_pylist()
            for folder in "ab"
        )
        assert sorted(map(str, first)) == sorted(map(str, again))


def test_pku_dual_drops_rows_that_break_its_rules_and_reads_both_forms(tmp_path: Path) -> None:
    safe, harm = Label.of(), Label.of(["S6"], 2)
    good = dual_row("What is tea?", ("A drink.", "Throw it."), (safe, harm), 1, 0)
    listed = good | {"prompt": "b", "response_1_harm_category": ["Violence"], "response_0_harm_category": []}
    old = {k: v for k, v in good.items() if not any(w in k for w in ("source", "harm", "severity", "sha"))}
    rows = [
        good,
        listed,
        old | {"prompt": "c"},
        good | {"safer_response_id": 1},
        good | {"response_1_severity_level": 0},
        good | {"is_response_1_safe": True},
        good | {"better_response_id": 2},
        good | {"is_response_0_safe": "yes"},
        good | {"response_1_harm_category": ["Rudeness"]},
        good | {"response_1": "A drink."},
    ]
    corpus = read("pku_saferlhf_19cat_sample", put(tmp_path, "pku_saferlhf_19cat_sample", rows))
    assert len(corpus.pairs) == 3 and sum(corpus.dropped.values()) == 7 and len(corpus.dropped) == 6
    labels = [j.value for j in corpus.judgements if j.question == "label"]
    assert labels == [{"categories": [], "severity": 0}, {"categories": ["S6"], "severity": 2}] * 2
    assert [j.value for j in corpus.judgements if j.question == "safe"] == [True, False]


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "pku_dual"])
def test_adapter_on_the_real_set(name: str, real_data: Path) -> None:
    corpus = read(name, real_data)
    assert len(corpus.qa) >= 48 and corpus.judgements
    texts = {row.id for row in corpus.qa} | {row.id for row in corpus.pairs}
    assert {j.item for j in corpus.judgements} <= texts
    assert all(j.value is not None for j in corpus.judgements)
    assert sum(corpus.dropped.values()) < 0.5 * (len(corpus.judgements) + sum(corpus.dropped.values()))


def test_real_labels_give_a_release_without_violations(real_data: Path) -> None:
    corpus = read("pku_saferlhf_19cat_sample", real_data)
    tables, left_out = release_tables(corpus, Final.of(corpus), seed=0)
    assert len(tables["default", "train"]) == len(corpus.pairs) == 125 and not left_out["default"]
