"""`mlcroissant` finds no error in a release's description and reads the rows through it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlcroissant
import pyarrow.parquet as pq
import pytest

from poise.data.card import FACTS
from poise.data.corpus import Corpus
from poise.data.croissant import render_croissant
from poise.data.records import JudgementRecord, PartialLabel, PromptRecord, QARecord, Turn
from poise.data.release import Final, corpus_tables, write_release
from poise.data.tables import TableWriter, open_tables
from poise.errors import PoiseError

RAI = {
    *("dataCollection", "dataAnnotationProtocol", "dataAnnotationPlatform", "dataAnnotationAnalysis"),
    *("annotationsPerItem", "annotatorDemographics", "machineAnnotationTools", "personalSensitiveInformation"),
    *("dataBiases", "dataLimitations", "dataUseCases", "dataSocialImpact", "dataReleaseMaintenancePlan"),
}
TOLD = {"url": "https://example.org", "version": "1.0.0", "published": "2026-01-31", "citation": "x"}


@pytest.fixture
def folder(make_corpus: Callable[..., Corpus], tmp_path: Path) -> Path:
    corpus = make_corpus(4, test=1)
    tables = corpus_tables(corpus, Final.of(corpus), tmp_path / "t")
    return write_release(tables, tmp_path / "r", name="x", licence="MIT", seed=0, facts=TOLD).folder


def read(folder: Path) -> dict[str, Any]:
    found = json.loads((folder / "croissant.json").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def test_no_error_and_no_warning(folder: Path) -> None:
    dataset = mlcroissant.Dataset(jsonld=folder / "croissant.json")
    assert not dataset.metadata.ctx.issues.errors
    assert {w for w in dataset.metadata.ctx.issues.warnings if "recommended" not in w} == set()
    assert dataset.metadata.ctx.issues.warnings == set() and dataset.metadata.version == "1.0.0"
    assert dataset.metadata.ctx.is_v1_1()


def test_every_row_is_read_through_it(folder: Path) -> None:
    dataset = mlcroissant.Dataset(jsonld=folder / "croissant.json")
    for config in ("default", "single-dimension", "qa", "prompt", "judgements"):
        files = sorted((folder / "data" / config).glob("*.parquet"))  # test comes before train
        rows = [row | {"split": file.name.split("-")[0]} for file in files for row in pq.read_table(file).to_pylist()]
        found = list(dataset.records(config))
        assert len(found) == len(rows)
        for record, row in zip(found, rows, strict=True):
            for name, value in row.items():
                if isinstance(value, dict):
                    inner = {
                        key.split("/")[-1].replace("_", " "): flag for key, flag in record[f"{config}/{name}"].items()
                    }
                    assert inner == value
                else:
                    got = record[f"{config}/{name}"]
                    assert (got.decode() if isinstance(got, bytes) else got) == value
    train = list(dataset.records("qa", filters={"qa/split": "train"}))
    assert len(train) == 9 and {record["qa/split"] for record in train} == {b"train"}


def test_files_are_named_with_size_and_hash(folder: Path) -> None:
    parts = {part["@id"]: part for part in read(folder)["distribution"]}
    files = {path.relative_to(folder).as_posix(): path for path in folder.glob("data/*/*.parquet")}
    assert set(files) | {f"{path.parent.name}-files" for path in files.values()} == set(parts)
    for name, path in files.items():
        assert parts[name]["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert parts[name]["contentSize"] == f"{path.stat().st_size} B" and parts[name]["contentUrl"] == name


def test_turns_and_lists_are_read(tmp_path: Path) -> None:
    turns = (Turn(role="user", content="Hello"), Turn(role="assistant", content="Good day"))
    other = PartialLabel(safe=False, categories=("a", "b"), taxonomy="own-2")
    with TableWriter(tmp_path / "t", {"name": "test"}) as writer:
        writer.add(PromptRecord(prompt="Which tea?", turns=turns, label=other))
    write_release(open_tables(tmp_path / "t"), tmp_path / "r", name="x", licence="Our own", seed=0)
    dataset = mlcroissant.Dataset(jsonld=tmp_path / "r" / "croissant.json")
    (record,) = dataset.records("prompt")
    assert record["prompt/categories"] == [b"a", b"b"] and record["prompt/is_safe"] is False
    said = [{key.split("/")[-1]: text.decode() for key, text in turn.items()} for turn in record["prompt/turns"]]
    assert said == [{"role": t.role, "content": t.content} for t in turns]
    assert read(tmp_path / "r")["license"] == "Our own"


def test_unknown_facts_read_not_recorded_and_no_date_is_invented(
    make_corpus: Callable[..., Corpus], tmp_path: Path
) -> None:
    corpus = make_corpus(2)
    tables = corpus_tables(corpus, Final.of(corpus), tmp_path / "t")
    write_release(tables, tmp_path / "r", name="x", licence="CC-BY-NC-4.0", seed=0)
    found = read(tmp_path / "r")
    assert {key.removeprefix("rai:") for key in found if key.startswith("rai:")} == RAI
    assert found["license"] == "https://spdx.org/licenses/CC-BY-NC-4.0.html"
    assert not {"datePublished", "version", "url", "creator", "citeAs", "inLanguage"} & set(found)
    assert found.pop("rai:annotationsPerItem") == (
        "better: 1 for each of 6 items; label: 1 for each of 6 items; "
        "safer: 1 for each of 6 items; single: 1 for each of 6 items"
    )
    assert found.pop("rai:machineAnnotationTools") == "none"  # a rule and a person
    assert {value for key, value in found.items() if key.startswith("rai:")} == {"not recorded"}
    facts = {key: f"about {key}" for key in FACTS} | {"language": "en, de", "creators": "Ann, Bob"}
    told = render_croissant(tmp_path / "r", name="x", licence="MIT", facts=facts)
    assert "not recorded" not in {value for key, value in told.items() if key.startswith("rai:")}
    assert told["rai:dataBiases"] == "about biases" and told["inLanguage"] == ["en", "de"]
    assert [creator["name"] for creator in told["creator"]] == ["Ann", "Bob"] and told["citeAs"] == "about citation"
    with pytest.raises(PoiseError, match="unknown fact 'colour'"):
        render_croissant(tmp_path / "r", name="x", licence="MIT", facts={"colour": "red"})


def test_model_raters_are_named_and_agreement_is_counted(tmp_path: Path) -> None:
    asked = QARecord(prompt="Tea?", response="Yes.", label=PartialLabel(safe=True, categories=(), severity=0))
    with TableWriter(tmp_path / "t", {"name": "test"}) as writer:
        writer.add(asked)
        for who, version in (("guard-a", "2"), ("guard-b", "")):
            judged = {"item": asked.item, "question": "safe", "value": True, "responses": (asked.item,)}
            writer.add(JudgementRecord(**judged, rater=who, rater_kind="model", rater_version=version))
    write_release(open_tables(tmp_path / "t"), tmp_path / "r", name="x", licence="MIT", seed=0)
    found = read(tmp_path / "r")
    assert found["rai:machineAnnotationTools"] == ["guard-a 2", "guard-b"]
    assert found["rai:annotationsPerItem"] == "safe: 2 for each of 1 items"
    assert found["rai:dataAnnotationAnalysis"].endswith("to which all gave one answer: safe: 1 of 1")
