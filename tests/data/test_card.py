"""The card's front matter is complete, and every number in it is that of the files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from poise.data.card import FACTS, _size, render_card
from poise.data.columns import SCHEMAS
from poise.data.corpus import Corpus
from poise.data.records import JudgementRecord, PartialLabel, PromptRecord, QARecord, Record, Turn
from poise.data.release import Final, corpus_tables, write_release
from poise.data.release_counts import Question, count_release
from poise.data.tables import TableWriter, open_tables
from poise.errors import PoiseError

SAFE = PartialLabel(safe=True, categories=(), severity=0)


def release(corpus: Corpus, folder: Path, **told: Any) -> Path:
    tables = corpus_tables(corpus, Final.of(corpus), folder.with_name(f"{folder.name}-tables"))
    return write_release(tables, folder, **{"name": "x", "licence": "MIT", "seed": 0, **told}).folder


def release_records(records: list[Record], folder: Path) -> Path:
    with TableWriter(folder.with_name(f"{folder.name}-tables"), {"name": "test"}) as writer:
        for record in records:
            writer.add(record)
    return write_release(open_tables(writer.folder), folder, name="x", licence="Our own", seed=0).folder


def card(folder: Path) -> tuple[dict[str, Any], str]:
    text = (folder / "README.md").read_text(encoding="utf-8")
    matter = yaml.safe_load(text.split("---\n")[1])
    assert isinstance(matter, dict)
    return matter, text


def test_the_front_matter_is_complete(make_corpus: Callable[..., Corpus], tmp_path: Path) -> None:
    facts = {"language": "en, de", "biases": "Tea is over-represented."}
    folder = release(make_corpus(5, test=1), tmp_path / "r", name="My data", licence="CC-BY-NC-4.0", facts=facts)
    matter, text = card(folder)
    info = matter.pop("dataset_info")
    assert matter.pop("configs")[0] == {
        "config_name": "default",
        "default": True,
        "data_files": [
            {"split": "train", "path": "data/default/train-*"},
            {"split": "test", "path": "data/default/test-*"},
        ],
    }
    assert "harmful" in matter.pop("extra_gated_prompt") and matter.pop("extra_gated_fields") and matter.pop("tags")
    assert matter == {
        "pretty_name": "My data",
        "language": ["en", "de"],
        "license": "cc-by-nc-4.0",
        "annotations_creators": ["machine-generated", "other"],  # a rule and a person
        "source_datasets": ["original"],
        "task_categories": ["text-classification", "text-generation"],
        "size_categories": ["n<1K"],
    }
    assert [entry["config_name"] for entry in info] == ["default", "single-dimension", "qa", "prompt", "judgements"]
    assert "# My data" in text and "Tea is over-represented." in text
    assert text.count("not recorded") == len(FACTS) - 2


def test_numbers_are_those_of_the_files(make_corpus: Callable[..., Corpus], tmp_path: Path) -> None:
    folder = release(make_corpus(5, test=1), tmp_path / "r")
    matter, text = card(folder)
    for entry in matter["dataset_info"]:
        files = list((folder / "data" / entry["config_name"]).glob("*.parquet"))
        assert entry["download_size"] == sum(file.stat().st_size for file in files)
        assert entry["dataset_size"] == sum(split["num_bytes"] for split in entry["splits"])
        assert [split["name"] for split in entry["splits"]] == ["train", "test"]
        for split in entry["splits"]:
            (file,) = (file for file in files if file.name.startswith(split["name"]))
            assert split["num_examples"] == pq.read_metadata(file).num_rows and split["num_bytes"] > 0
    # 5 prompts: 2 safe responses and 1 harmful one (S6 Violence, S12 Physical Harm, severity 2); of 3 pairs 2 are mixed
    for line in (
        "| `qa` | 12 | 3 |",
        "| 0 none | 10 |",
        "| 2 moderate | 5 |",
        "| 3 severe | 0 |",
        "| Physical Harm | 5 |",
        "| Violence | 5 |",
        "| Animal Abuse | 0 |",
        "| one safe | 10 |",
        "| both safe | 5 |",
        "| both unsafe | 0 |",
        "person: 1; rule: 1.",
        "| label | 15 | 1 | no item has several |",
        "| better | 15 | 1 | no item has several |",
    ):
        assert line in text, line
    assert "Nothing." in text


def test_features_are_what_datasets_would_write(tmp_path: Path) -> None:
    import datasets

    turns = (Turn(role="user", content="Hello"),)
    other = PartialLabel(safe=False, categories=("x",), taxonomy="own-2")
    records = [
        PromptRecord(prompt="Which tea?", turns=turns, label=other, language="fr"),
        QARecord(prompt="Which tea?", response="Green.", label=SAFE),
    ]
    folder = release_records(records, tmp_path / "r")
    matter, text = card(folder)
    info = {entry["config_name"]: entry for entry in matter["dataset_info"]}
    assert [feature["name"] for feature in info["qa"]["features"]] == SCHEMAS["qa"].names
    for config in ("qa", "prompt"):
        (file,) = (folder / "data" / config).glob("*.parquet")
        assert info[config]["features"] == datasets.Features.from_arrow_schema(pq.read_schema(file))._to_yaml_list()
    assert matter["language"] == ["fr"] and "## Language\n\nfr" in text


def test_without_dual_pairs_another_config_is_the_default(tmp_path: Path) -> None:
    records: list[Record] = [PromptRecord(prompt="Tea?"), QARecord(prompt="Tea?", response="Yes.", label=SAFE)]
    matter, text = card(release_records(records, tmp_path / "r"))
    assert [c["config_name"] for c in matter["configs"] if c.get("default")] == ["qa"]
    assert (matter["license"], matter["license_name"]) == ("other", "Our own")
    assert matter["annotations_creators"] == ["found"] and matter["source_datasets"] == ["extended"]
    assert matter["language"] == ["und"] and "## Raters\n\nnot recorded" in text
    matter, _ = card(release_records([PromptRecord(prompt="Tea?", dataset="d")], tmp_path / "s"))
    assert matter["annotations_creators"] == ["no-annotation"]


def test_raters_are_counted_by_item_and_last_round(tmp_path: Path) -> None:
    answers = [QARecord(prompt="Tea?", response=text, label=SAFE) for text in ("Yes.", "No.", "Maybe.")]
    said: list[tuple[int, str, str, object, int]] = [
        (0, "gpt", "model", True, 0),
        (0, "Ann", "person", False, 0),
        (0, "Ann", "person", True, 1),  # Ann's last answer agrees
        (1, "gpt", "model", True, 0),
        (1, "Ann", "person", False, 0),
        (2, "gpt", "model", True, 0),
        (2, "Bob", "person", None, 0),  # unjudged is no answer
    ]
    judged = [
        JudgementRecord(
            item=answers[i].item,
            question="safe",
            value=value,
            rater=who,
            rater_kind=kind,
            rater_version="4" if kind == "model" else "",
            round=turn,
            responses=(answers[i].item,),
        )
        for i, who, kind, value, turn in said
    ]
    folder = release_records([*answers, *judged], tmp_path / "r")
    counts = count_release(folder)
    assert counts.raters == {"model": 1, "person": 2} and counts.models == ["gpt 4"]
    assert counts.questions == [Question("safe", items=3, mean=5 / 3, fewest=1, most=2, shared=2, agreed=1)]
    assert "| safe | 3 | 1.67 (1 to 2) | 1 of 2 items with several |" in card(folder)[1]
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.md",
        "croissant.json",
        "data",
        "manifest.json",
        "validation.json",
    ]


@pytest.mark.parametrize(
    ("rows", "word"),
    [
        (0, "n<1K"),
        (999, "n<1K"),
        (1000, "1K<n<10K"),
        (265_000, "100K<n<1M"),
        (9_999_999, "1M<n<10M"),
        (10_000_000, "10M<n<100M"),
        (10**12, "n>1T"),
    ],
)
def test_size_words(rows: int, word: str) -> None:
    assert _size(rows) == word


def test_unknown_facts_are_refused(make_corpus: Callable[..., Corpus], tmp_path: Path) -> None:
    with pytest.raises(PoiseError, match=r"unknown fact 'colour' \(use one of language, "):
        release(make_corpus(1), tmp_path / "r", facts={"colour": "red"})
    assert not (tmp_path / "r").exists()
    folder = release(make_corpus(1), tmp_path / "s")
    with pytest.raises(PoiseError, match="unknown fact"):
        render_card(folder, name="x", licence="MIT", left_out={}, facts={"colour": "red"})


def test_what_is_left_out_is_on_the_card(make_corpus: Callable[..., Corpus], tmp_path: Path) -> None:
    corpus = make_corpus(2)
    corpus.judgements = [j for j in corpus.judgements if not (j.item == corpus.pairs[0].id and j.question == "better")]
    _, text = card(release(corpus, tmp_path / "r"))
    assert "| `default` | better is not judged | 1 |" in text and "are in `pairs-extended`" in text
    assert "| `pairs-extended` | 1 | 0 |" in text
