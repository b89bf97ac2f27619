"""A release opens everywhere, is the same bytes each time, and is not there when a rule is broken."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from poise.data import release as release_module
from poise.data import shuffle as shuffle_module
from poise.data.columns import SCHEMAS
from poise.data.corpus import Corpus
from poise.data.records import (
    CorrectionRecord,
    DualRecord,
    JudgementRecord,
    PartialLabel,
    PromptRecord,
    QARecord,
    Record,
    SingleRecord,
    Turn,
)
from poise.data.release import Final, Release, corpus_tables, write_release
from poise.data.rows import Judgement
from poise.data.seeds import load_seeds
from poise.data.tables import Tables, TableWriter, open_tables
from poise.errors import PoiseError
from poise.harm import CATEGORIES

PKU_DUAL = [
    "prompt",
    "response_0",
    "response_1",
    "prompt_source",
    "response_0_source",
    "response_1_source",
    "is_response_0_safe",
    "is_response_1_safe",
    "response_0_harm_category",
    "response_1_harm_category",
    "response_0_severity_level",
    "response_1_severity_level",
    "better_response_id",
    "safer_response_id",
    "response_0_sha256",
    "response_1_sha256",
]
SAFE = PartialLabel(safe=True, categories=(), severity=0)
HARM = PartialLabel(safe=False, categories=("Violence",), severity=2)


def tables_of(corpus: Corpus, folder: Path, final: Final | None = None) -> Tables:
    return corpus_tables(corpus, final or Final.of(corpus), folder.with_name(f"{folder.name}-tables"))


def write(corpus: Corpus, folder: Path, seed: int = 0, **told: Any) -> Release:
    return write_release(tables_of(corpus, folder), folder, name="x", licence="MIT", seed=seed, **told)


def put(records: Sequence[Record], folder: Path) -> Tables:
    with TableWriter(folder, {"name": "test"}) as writer:
        for record in records:
            writer.add(record)
    return open_tables(folder)


def rows(folder: Path, config: str, split: str = "train") -> list[dict[str, Any]]:
    files = sorted((folder / "data" / config).glob(f"{split}-*.parquet"))
    return [row for file in files for row in pq.read_table(file).to_pylist()]


@pytest.mark.parametrize("test", [0, 2])
def test_every_config_opens_with_datasets_duckdb_and_pandas(
    make_corpus: Callable[..., Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, test: int
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets
    import duckdb
    import pandas as pd

    datasets.disable_progress_bars()
    write(make_corpus(6, test=test), tmp_path / "r")
    expected = {"default": 18, "single-dimension": 18, "qa": 18, "prompt": 6, "judgements": 6 * (3 + 9)}
    for config, n in expected.items():
        loaded = datasets.load_dataset(str(tmp_path / "r"), config, cache_dir=str(tmp_path / "cache"))
        assert sum(split.num_rows for split in loaded.values()) == n
        assert set(loaded) == ({"train", "test"} if test else {"train"})
        assert loaded["train"].column_names == SCHEMAS[config].names
        found = duckdb.sql(f"FROM '{tmp_path}/r/data/{config}/*.parquet'")
        assert found.columns == SCHEMAS[config].names and len(found.fetchall()) == n
        assert len(pd.read_parquet(tmp_path / "r" / "data" / config)) == n
    loaded = datasets.load_dataset(str(tmp_path / "r"), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"].column_names == PKU_DUAL  # the default config
    features = loaded["train"].features
    assert list(features["response_0_harm_category"]) == [category.value for category in CATEGORIES]
    assert features["safer_response_id"].dtype == "int64" and features["is_response_0_safe"].dtype == "bool"


def test_files_are_compressed_indexed_and_named_in_the_manifest(
    make_corpus: Callable[..., Corpus], tmp_path: Path
) -> None:
    tables = tables_of(make_corpus(5, test=1), tmp_path / "r")
    release = write_release(tables, tmp_path / "r", name="My data", licence="CC-BY-NC-4.0", seed=7)
    manifest = json.loads((tmp_path / "r/manifest.json").read_text())
    assert manifest == release.manifest and manifest["seed"] == 7 and manifest["name"] == "My data"
    assert manifest["parents"] == [tables.digest()] and manifest["raters"] == {"person": 1, "rule": 1}
    assert manifest["schema_version"] and manifest["policy_version"] and manifest["licence"] == "CC-BY-NC-4.0"
    there = {p.relative_to(tmp_path / "r").as_posix() for p in (tmp_path / "r").rglob("*") if p.is_file()}
    named = {entry["path"]: entry for entry in manifest["files"]}
    assert set(named) == there - {"manifest.json"} and {"README.md", "croissant.json", "validation.json"} <= there
    for path, entry in named.items():
        content = (tmp_path / "r" / path).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"] and len(content) == entry["bytes"]
    assert named["data/qa/test-00000-of-00001.parquet"]["rows"] == 3
    assert json.loads((tmp_path / "r/validation.json").read_text()) == release.validation.to_json()
    column = pq.read_metadata(tmp_path / "r/data/qa/train-00000-of-00001.parquet").row_group(0).column(0)
    assert column.compression == "ZSTD" and column.has_column_index and column.has_offset_index


def test_rebuilt_release_is_byte_identical_whatever_the_order_of_rows(
    make_corpus: Callable[..., Corpus], tmp_path: Path
) -> None:
    corpus = make_corpus(6, test=1)
    tables = tables_of(corpus, tmp_path / "a")
    first = write_release(tables, tmp_path / "a", name="x", licence="MIT", seed=3)
    write_release(tables, tmp_path / "b", name="x", licence="MIT", seed=3)
    corpus.prompts.reverse()
    corpus.qa.reverse()
    corpus.pairs.reverse()
    write(corpus, tmp_path / "c", seed=3)
    paths = [entry["path"] for entry in first.manifest["files"]]
    assert len(paths) == 13  # 5 configs x 2 splits, card, Croissant, validation
    for path in paths:
        content = (tmp_path / "a" / path).read_bytes()
        assert content == (tmp_path / "b" / path).read_bytes() == (tmp_path / "c" / path).read_bytes()
    assert (tmp_path / "a/manifest.json").read_bytes() == (tmp_path / "b/manifest.json").read_bytes()


def test_order_is_a_hash_of_seed_and_row(make_corpus: Callable[..., Corpus], tmp_path: Path) -> None:
    corpus = make_corpus(8)
    asked = [prompt.prompt for prompt in corpus.prompts]
    orders = []
    for seed in (3, 4):
        write(corpus, tmp_path / str(seed), seed)
        orders.append([row["prompt"] for row in rows(tmp_path / str(seed), "prompt")])
        by_hash = sorted(asked, key=lambda text: hashlib.sha256(f"{seed} prompt\x1f{text}\x1f\x1f".encode()).digest())
        assert orders[-1] == by_hash != asked
    assert orders[0] != orders[1]


def test_large_configs_are_sharded_and_rows_keep_their_order(
    make_corpus: Callable[..., Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    write(make_corpus(24), tmp_path / "one")
    monkeypatch.setattr(shuffle_module, "BUCKET_ROWS", 6)
    monkeypatch.setattr(release_module, "SHARD_BYTES", 10_000)
    monkeypatch.setattr(release_module, "ROW_GROUP", 10)
    write(make_corpus(24), tmp_path / "many")
    for config in ("default", "qa", "judgements"):
        names = sorted(path.name for path in (tmp_path / "many/data" / config).glob("train-*"))
        assert len(names) > 1 and names[1] == f"train-00001-of-{len(names):05d}.parquet"
        assert rows(tmp_path / "many", config) == rows(tmp_path / "one", config)
    last = tmp_path / "many/data/qa" / sorted(p.name for p in (tmp_path / "many/data/qa").glob("train-*"))[-1]
    groups = [pq.read_metadata(last).row_group(i).num_rows for i in range(pq.read_metadata(last).num_row_groups)]
    assert all(group >= 10 for group in groups[:-1])
    loaded = datasets.load_dataset(str(tmp_path / "many"), "qa", cache_dir=str(tmp_path / "cache"))
    assert {name: split.num_rows for name, split in loaded.items()} == {"train": 72}


def test_people_are_pseudonyms_and_their_words_stay_out(make_corpus: Callable[..., Corpus], tmp_path: Path) -> None:
    write(make_corpus(3), tmp_path / "r")
    found = rows(tmp_path / "r", "judgements")
    assert {(row["rater"], row["rater_kind"]) for row in found} == {("rule", "rule"), ("person-1", "person")}
    everything = b"".join(path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file())
    assert b"Ann Example" not in everything and "private" not in str(found)
    hashes = {row["sha256"] for row in rows(tmp_path / "r", "qa")}
    assert all(row["response_0_sha256"] in hashes for row in found)
    label = next(row for row in found if row["question"] == "label" and "S6" in row["value"])
    assert json.loads(label["value"]) == {"categories": ["S6", "S12"], "severity": 2}


def test_what_people_typed_stays_out(tmp_path: Path) -> None:
    asked = QARecord(prompt="What is tea?", response="A drink.", label=SAFE)
    told: list[tuple[str, Any, str]] = [
        ("reason", ["typed by a person"], "person"),
        ("comment", "typed by a person", "person"),
        ("note", [3, "typed by a person"], "person"),
        ("tone", "neutral", "model"),
        ("stars", 4, "person"),
        ("ratings", [4, 5], "person"),
        ("label", {"categories": [], "severity": 0}, "person"),
        ("single", "tie", "person"),
    ]
    judged = [
        JudgementRecord.model_validate(
            {"item": asked.item, "question": q, "value": value, "rater": "Ann", "rater_kind": kind}
            | {"responses": (asked.item,)}
        )
        for q, value, kind in told
    ]
    release = write_release(put([asked, *judged], tmp_path / "t"), tmp_path / "r", name="x", licence="MIT", seed=0)
    shown = {row["question"] for row in rows(tmp_path / "r", "judgements")}
    assert shown == {"tone", "stars", "ratings", "label", "single"}
    assert release.manifest["left_out"]["judgements"] == {"words of a person": 3}
    written = b"".join(path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file())
    assert b"typed by" not in written


def test_people_are_numbered_by_their_first_judgement(tmp_path: Path) -> None:
    asked = QARecord(prompt="What is tea?", response="A drink.", label=SAFE)
    people = ["Zoe", "Ann", "Zoe", "Bob"]
    judged = [
        JudgementRecord(
            item=asked.item, question=f"q{i}", value=i, rater=who, rater_kind="person", responses=(asked.item,)
        )
        for i, who in enumerate(people)
    ]
    write_release(put([asked, *judged], tmp_path / "t"), tmp_path / "r", name="x", licence="MIT", seed=0)
    shown = {row["question"]: row["rater"] for row in rows(tmp_path / "r", "judgements")}
    assert shown == {"q0": "person-1", "q1": "person-2", "q2": "person-1", "q3": "person-3"}


def test_repeated_answers_are_rounds_and_the_last_one_stands(
    make_corpus: Callable[..., Corpus], tmp_path: Path
) -> None:
    corpus = make_corpus(1)
    pair = corpus.pairs[0]
    corpus.judgements.append(Judgement(item=pair.id, question="better", value=1, rater="Ann Example"))
    write(corpus, tmp_path / "r")
    answers = [r for r in rows(tmp_path / "r", "judgements") if r["item"] == pair.id and r["question"] == "better"]
    assert sorted((row["round"], row["value"]) for row in answers) == [(0, "0"), (1, "1")]
    assert sorted(row["better_response_id"] for row in rows(tmp_path / "r", "default")) == [0, 0, 1]


def test_what_is_left_out_is_counted_with_its_reason(make_corpus: Callable[..., Corpus], tmp_path: Path) -> None:
    corpus = make_corpus(4)
    drop = {corpus.qa[0].id: "label", corpus.pairs[3].id: "better", corpus.pairs[6].id: "safer"}
    drop |= {corpus.qa[9].id: "label"}
    corpus.judgements = [j for j in corpus.judgements if drop.get(j.item) != j.question]
    corpus.judgements += [
        Judgement(item=corpus.qa[0].id, question="safe", value=True, rater="rule"),
        Judgement(item=corpus.pairs[6].id, question="safer", value=None, rater="rule"),
        Judgement(item="elsewhere", question="safe", value=True, rater="rule"),
    ]
    corpus.dropped = {"tie": 7}
    swap = corpus.pairs[8]
    corpus.pairs.append(swap.model_copy(update={"id": "again", "qa_0": swap.qa_1, "qa_1": swap.qa_0}))
    release = write(corpus, tmp_path / "r")
    left_out = release.manifest["left_out"]
    assert left_out["qa"] == {"a response has no label": 1, "only safe or unsafe is known of a response": 1}
    assert left_out["default"] == {
        "a response has no label": 2,  # two pairs of the response
        "better is not judged": 2,  # and the swapped copy, which nobody judged
        "only safe or unsafe is known of a response": 2,
        "safer is not judged": 1,
    }
    assert left_out["single-dimension"] == {"single is not judged": 1}
    assert left_out["judgements"] == {"the item is no response and no pair of the corpus": 1}
    assert release.manifest["source_rows_dropped"] == {"tie": 7}
    assert release.validation.rows["default/train"] == 12 - 6  # six pairs lack something
    assert release.validation.rows["pairs-extended/train"] == 6  # all are judged in part; the copy is in `default`
    final = Final.of(corpus)
    for question in ("better", "safer", "single"):
        getattr(final, question)["again"] = getattr(final, question)[swap.id]
    tables = tables_of(corpus, tmp_path / "s", final)
    left_out = write_release(tables, tmp_path / "s", name="x", licence="MIT", seed=0).manifest["left_out"]
    assert left_out["single-dimension"] == {"the pair came before": 1}


def test_dual_rows_go_where_they_are_complete(tmp_path: Path) -> None:
    def dual(thing: str, **told: Any) -> DualRecord:
        return DualRecord(prompt=f"{thing * 9}?", responses=("Yes.", "No!"), prompt_source="a", **told)

    records = [
        dual("teapot", labels=(SAFE, HARM), better=1, safer=0),
        dual("violin", labels=(SAFE, HARM), safer=0),
        dual("glacier", labels=(SAFE, SAFE), better=1),
        dual("postcard", better=0, safer=0),
        dual("beehive", labels=(PartialLabel(safe=True), PartialLabel(safe=False)), better=0, safer=0),
        dual("sandal", labels=(PartialLabel(safe=True), PartialLabel(safe=False)), better=0, safer=1),
        dual("chess", labels=(SAFE, PartialLabel(safe=False, severity=1)), better=0, safer=0),
        dual("lighthouse"),  # of this one nothing is judged
    ]
    release = write_release(put(records, tmp_path / "t"), tmp_path / "r", name="x", licence="MIT", seed=0)
    assert [row["prompt"] for row in rows(tmp_path / "r", "default")] == ["teapot" * 9 + "?"]
    found = {row["prompt"][:5]: row for row in rows(tmp_path / "r", "pairs-extended")}
    assert set(found) == {"violi", "glaci", "postc", "beehi", "chess"}
    keys = ("is_response_1_safe", "better_response_id", "safer_response_id", "safer_derived")
    assert [found["violi"][key] for key in keys] == [False, None, 0, False]
    assert [found["glaci"][key] for key in keys] == [True, 1, None, None]
    assert [found["postc"][key] for key in keys] == [None, 0, 0, False]
    assert found["beehi"]["response_1_harm_category"] is None and found["beehi"]["response_1_severity_level"] is None
    assert found["violi"]["prompt_source"] == "a" and found["violi"]["response_0_source"] == "not recorded"
    assert release.manifest["left_out"]["default"] == {
        "a response has no label": 2,
        "a response is labelled in part": 1,
        "better is not judged": 1,
        "only safe or unsafe is known of a response": 2,
        "safer is not judged": 1,
    }
    assert release.manifest["left_out"]["pairs-extended"] == {
        "a pair judged in part, labels and ranking contradict each other": 1
    }


def test_unknown_facts_of_a_row_read_not_recorded(tmp_path: Path) -> None:
    records = [
        PromptRecord(prompt="What is tea?"),
        QARecord(prompt="What is tea?", response="A drink.", label=SAFE),
        CorrectionRecord(question="What is tea?", answer="A drink.", correction="A hot drink.", answer_source="m"),
    ]
    write_release(put(records, tmp_path / "t"), tmp_path / "r", name="x", licence="MIT", seed=0)
    (prompt,), (qa,), (fix,) = (rows(tmp_path / "r", config) for config in ("prompt", "qa", "corrections"))
    assert (prompt["prompt_source"], prompt["kind"], prompt["severity"]) == ("not recorded", "unknown", 0)
    assert qa["response_source"] == "not recorded"
    assert (fix["question_source"], fix["answer_source"], fix["correction"]) == ("not recorded", "m", "A hot drink.")


def test_carried_columns_are_there_only_where_they_hold_something(tmp_path: Path) -> None:
    turns = (Turn(role="user", content="Hello"), Turn(role="assistant", content="Good day"))
    pair = {"prompt": "Which tea?", "responses": ("Green.", "Black."), "licence": "mit", "source_id": "7"}
    records = [
        PromptRecord(prompt="Which tea?", label=PartialLabel(safe=False, categories=("x",), taxonomy="own-2")),
        PromptRecord(prompt="And which cake, if any?", licence="MIT"),
        QARecord(prompt="Which tea?", response="Green.", label=SAFE, turns=turns, image="a.png", licence="CC0-1.0"),
        QARecord(prompt="And which cake, if any?", response="None.", label=SAFE, language="en", dataset="d"),
        SingleRecord(**pair, better=0, provenance={"persona": "p"}),
        DualRecord(**pair, better=0, safer=1, labels=(SAFE, SAFE)),
    ]
    write_release(put(records, tmp_path / "t"), tmp_path / "r", name="x", licence="MIT", seed=0)
    extra = {
        config: [name for name in rows(tmp_path / "r", config)[0] if name not in SCHEMAS[config].names]
        for config in ("default", "single-dimension", "qa", "prompt")
    }
    assert extra == {
        "default": [],  # the licence is that of the release
        "single-dimension": [],
        "qa": ["turns", "image", "language", "dataset", "licence"],
        "prompt": ["is_safe", "taxonomy", "categories"],
    }
    found = {row["response"]: row for row in rows(tmp_path / "r", "qa")}
    assert found["Green."]["turns"] == [{"role": t.role, "content": t.content} for t in turns]
    assert found["None."]["turns"] is None and found["None."]["language"] == "en"
    assert list(rows(tmp_path / "r", "default")[0]) == PKU_DUAL


def test_broken_order_writes_nothing(make_corpus: Callable[..., Corpus], tmp_path: Path) -> None:
    corpus = make_corpus(2)
    wrong = next(p for p in corpus.pairs if corpus.qa[1].id in (p.qa_0, p.qa_1))
    unsafe = 0 if wrong.qa_0 == corpus.qa[1].id else 1
    corpus.judgements.append(Judgement(item=wrong.id, question="safer", value=unsafe, rater="rule"))
    with pytest.raises(PoiseError, match=r"logical-order \(1\), first logical-order at default/train/"):
        write(corpus, tmp_path / "r")
    assert [path.name for path in tmp_path.iterdir()] == ["r-tables"]


@pytest.mark.parametrize(
    "place", ["shuffle.pa.ipc.new_file", "release.pq.ParquetWriter.write_table", "release.write_json"]
)
def test_a_full_disk_leaves_nothing(
    make_corpus: Callable[..., Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    tables = tables_of(make_corpus(2), tmp_path / "r")
    monkeypatch.setattr(f"poise.data.{place}", full)
    with pytest.raises(PoiseError, match=r"No space left on device\); nothing was left behind") as caught:
        write_release(tables, tmp_path / "r", name="x", licence="MIT", seed=0)
    assert caught.value.exit_code == 3 and [path.name for path in tmp_path.iterdir()] == ["r-tables"]


def test_a_stopped_release_leaves_nothing(
    make_corpus: Callable[..., Corpus], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(rows: int, unit: str) -> None:
        seen.append((rows, unit))
        if unit == "judgements":
            raise KeyboardInterrupt

    seen: list[tuple[int, str]] = []
    tables = tables_of(make_corpus(2), tmp_path / "r")
    with pytest.raises(KeyboardInterrupt):
        write_release(tables, tmp_path / "r", name="x", licence="MIT", seed=0, progress=stop)
    assert seen == [(6, "default"), (6, "single-dimension"), (6, "qa"), (2, "prompt"), (24, "judgements")]
    assert [path.name for path in tmp_path.iterdir()] == ["r-tables"]


def test_unusable_corpora_are_refused_and_leave_nothing(make_corpus: Callable[..., Corpus], tmp_path: Path) -> None:
    with pytest.raises(PoiseError, match="corpus is empty"):
        write(Corpus(), tmp_path / "r")
    gone = make_corpus(2)
    gone.qa.pop()
    with pytest.raises(PoiseError, match="which the corpus does not hold"):
        write(gone, tmp_path / "r")
    odd = make_corpus(1)
    bad = {"categories": [], "severity": 2}
    odd.judgements.append(Judgement(item=odd.qa[0].id, question="label", value=bad, rater="rule"))
    with pytest.raises(PoiseError, match="no valid label"):
        write(odd, tmp_path / "r")
    odd = make_corpus(1)
    odd.judgements.append(Judgement(item=odd.pairs[0].id, question="better", value="first", rater="rule"))
    with pytest.raises(PoiseError, match=r"does not fit the columns \(better\)"):
        write(odd, tmp_path / "r")
    assert list(tmp_path.iterdir()) == []


def test_unusable_tables_and_folders_are_refused(make_corpus: Callable[..., Corpus], tmp_path: Path) -> None:
    leaky = make_corpus(2, test=1)
    leaky.prompts[1] = leaky.prompts[1].model_copy(update={"prompt": leaky.prompts[0].prompt + "?"})
    with pytest.raises(PoiseError, match="split-leak"):
        write(leaky, tmp_path / "leaky")
    unlabelled = put([QARecord(prompt="What is tea?", response="A drink.")], tmp_path / "t")
    with pytest.raises(PoiseError, match=r"release would be empty.*qa: a response has no label \(1\)"):
        write_release(unlabelled, tmp_path / "none", name="x", licence="MIT", seed=0)
    odd = put([PromptRecord(prompt="What is tea?")], tmp_path / "u")
    file = odd["prompt"].files[0]
    table = pq.read_table(file)
    place = table.schema.get_field_index("split")
    pq.write_table(table.set_column(place, "split", [["validation"]]), file)
    with pytest.raises(PoiseError, match="split 'validation'"):
        write_release(odd, tmp_path / "odd", name="x", licence="MIT", seed=0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(PoiseError, match="not empty"):
        write(make_corpus(1), tmp_path / "full")
    (tmp_path / "empty").mkdir()
    write(make_corpus(1), tmp_path / "empty")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"leaky-tables", "t", "u", "full", "full-tables", "empty", "empty-tables"}


def test_what_the_step_before_left_out_is_told(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "t", {"name": "dedup"}) as writer:
        writer.add(PromptRecord(prompt="What is tea?"))
        writer.left_out["prompt: near-duplicate"] += 2
        writer.left_out["field-type"] += 3
        writer.left_out["qa: near-duplicate"] += 0
    release = write_release(open_tables(tmp_path / "t"), tmp_path / "r", name="x", licence="MIT", seed=0)
    assert release.manifest["left_out"]["prompt"] == {"near-duplicate": 2}
    assert release.manifest["left_out"]["qa"] == {}
    assert release.manifest["source_rows_dropped"] == {"field-type": 3}


def test_seeds_can_be_released(tmp_path: Path) -> None:
    release = write(load_seeds(), tmp_path / "r")
    assert release.validation.ok and release.manifest["left_out"]["default"] == {}


def test_real_pairs_are_released_in_part(real_data: Path, tmp_path: Path) -> None:
    from poise.data.adapters import read

    corpus = read("pku_saferlhf_19cat_sample", real_data)
    release = write(corpus, tmp_path / "r")
    assert release.validation.rows["default/train"] == len(corpus.pairs) == 125
    corpus = read("pku_saferlhf_pairs", real_data)
    release = write(corpus, tmp_path / "s")
    extended = release.validation.rows["pairs-extended/train"]
    assert extended + sum(release.manifest["left_out"]["pairs-extended"].values()) == len(corpus.pairs)
