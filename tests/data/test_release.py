"""A release loads in `datasets`, is the same bytes each time, and is not there when a rule is broken."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from poise.data.columns import SCHEMAS
from poise.data.corpus import Corpus
from poise.data.release import Final, write_release
from poise.data.rows import Judgement
from poise.data.seeds import load_seeds
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


def rows(folder: Path, config: str, split: str = "train") -> list[dict]:
    return pq.read_table(folder / "data" / config / f"{split}-00000-of-00001.parquet").to_pylist()


def front_matter(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text(encoding="utf-8").split("---\n")[1])


@pytest.mark.parametrize("test", [0, 2])
def test_every_config_loads_with_datasets(make_corpus, tmp_path: Path, monkeypatch, test: int) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    import datasets

    datasets.disable_progress_bars()
    write_release(make_corpus(6, test=test), tmp_path / "r", name="x", licence="MIT", seed=0)
    expected = {"default": 18, "single-dimension": 18, "qa": 18, "prompt": 6, "judgements": 6 * (3 + 9)}
    for config, n in expected.items():
        loaded = datasets.load_dataset(str(tmp_path / "r"), config, cache_dir=str(tmp_path / "cache"))
        assert sum(split.num_rows for split in loaded.values()) == n
        assert set(loaded) == ({"train", "test"} if test else {"train"})
        assert loaded["train"].column_names == SCHEMAS[config].names
    loaded = datasets.load_dataset(str(tmp_path / "r"), cache_dir=str(tmp_path / "cache"))
    assert loaded["train"].column_names == PKU_DUAL  # the default config
    features = loaded["train"].features
    assert list(features["response_0_harm_category"]) == [category.value for category in CATEGORIES]
    assert features["safer_response_id"].dtype == "int64" and features["is_response_0_safe"].dtype == "bool"


def test_rebuilt_release_is_byte_identical_whatever_the_order_of_rows(make_corpus, tmp_path: Path) -> None:
    corpus = make_corpus(6, test=1)
    first = write_release(corpus, tmp_path / "a", name="x", licence="MIT", seed=3)
    corpus.prompts.reverse()
    corpus.qa.reverse()
    corpus.pairs.reverse()
    write_release(corpus, tmp_path / "b", name="x", licence="MIT", seed=3)
    for entry in first.manifest["files"]:
        content = (tmp_path / "b" / entry["path"]).read_bytes()
        assert content == (tmp_path / "a" / entry["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"] and len(content) == entry["bytes"]
    assert (tmp_path / "a/manifest.json").read_bytes() == (tmp_path / "b/manifest.json").read_bytes()
    write_release(corpus, tmp_path / "c", name="x", licence="MIT", seed=4)
    assert rows(tmp_path / "c", "default") != rows(tmp_path / "a", "default")


def test_card_and_manifest_count_what_is_there(make_corpus, tmp_path: Path) -> None:
    release = write_release(make_corpus(5, test=1), tmp_path / "r", name="My data", licence="CC-BY-NC-4.0", seed=7,
                            facts={"language": "en, de", "biases": "Tea is over-represented."})  # fmt: skip
    matter, text = front_matter(tmp_path / "r"), (tmp_path / "r/README.md").read_text(encoding="utf-8")
    assert matter["license"] == "cc-by-nc-4.0" and matter["language"] == ["en", "de"] and matter["extra_gated_prompt"]
    assert [c["config_name"] for c in matter["configs"] if c.get("default")] == ["default"]
    info = {entry["config_name"]: entry for entry in matter["dataset_info"]}
    assert {s["name"]: s["num_examples"] for s in info["qa"]["splits"]} == {"train": 12, "test": 3}
    assert [f["name"] for f in info["default"]["features"]] == PKU_DUAL
    assert "Tea is over-represented." in text and text.count("not recorded") == 6
    assert "| 2 moderate | 5 |" in text and "| one safe | 10 |" in text and "| Physical Harm | 5 |" in text
    manifest = json.loads((tmp_path / "r/manifest.json").read_text())
    assert manifest == release.manifest and manifest["seed"] == 7 and manifest["raters"] == {"person": 1, "rule": 1}
    assert {f["path"]: f["rows"] for f in manifest["files"] if "rows" in f}["data/qa/test-00000-of-00001.parquet"] == 3
    assert json.loads((tmp_path / "r/validation.json").read_text()) == release.validation.to_json()
    with pytest.raises(PoiseError, match="unknown fact 'colour'"):
        write_release(make_corpus(1), tmp_path / "s", name="x", licence="MIT", seed=0, facts={"colour": "red"})
    assert not (tmp_path / "s").exists()
    own = write_release(make_corpus(1), tmp_path / "t", name="x", licence="Our own", seed=0).folder
    assert front_matter(own)["license"] == "other" and "| `default` |" in (own / "README.md").read_text()


def test_people_are_pseudonyms_and_their_words_stay_out(make_corpus, tmp_path: Path) -> None:
    write_release(make_corpus(3), tmp_path / "r", name="x", licence="MIT", seed=0)
    found = rows(tmp_path / "r", "judgements")
    assert {(row["rater"], row["rater_kind"]) for row in found} == {("rule", "rule"), ("person-1", "person")}
    everything = b"".join(path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file())
    assert b"Ann Example" not in everything and "private" not in str(found)
    hashes = {row["sha256"] for row in rows(tmp_path / "r", "qa")}
    assert all(row["response_0_sha256"] in hashes for row in found)
    label = next(row for row in found if row["question"] == "label" and "S6" in row["value"])
    assert json.loads(label["value"]) == {"categories": ["S6", "S12"], "severity": 2}


def test_repeated_answers_are_rounds_and_the_last_one_stands(make_corpus, tmp_path: Path) -> None:
    corpus = make_corpus(1)
    pair = corpus.pairs[0]
    corpus.judgements.append(Judgement(item=pair.id, question="better", value=1, rater="Ann Example"))
    write_release(corpus, tmp_path / "r", name="x", licence="MIT", seed=0)
    answers = [r for r in rows(tmp_path / "r", "judgements") if r["item"] == pair.id and r["question"] == "better"]
    assert sorted((row["round"], row["value"]) for row in answers) == [(0, "0"), (1, "1")]
    assert sorted(row["better_response_id"] for row in rows(tmp_path / "r", "default")) == [0, 0, 1]


def test_what_is_left_out_is_counted_with_its_reason(make_corpus, tmp_path: Path) -> None:
    corpus = make_corpus(4)
    drop = {corpus.qa[0].id: "label", corpus.pairs[3].id: "better", corpus.pairs[6].id: "safer"}
    drop |= {corpus.qa[9].id: "label"}
    corpus.judgements = [j for j in corpus.judgements if drop.get(j.item) != j.question]
    corpus.judgements += [
        Judgement(item=corpus.qa[0].id, question="safe", value=True, rater="rule"),
        Judgement(item=corpus.pairs[6].id, question="safer", value=None, rater="rule"),
        Judgement(item="elsewhere", question="safe", value=True, rater="rule"),
    ]
    swap = corpus.pairs[8]
    corpus.pairs.append(swap.model_copy(update={"id": "again", "qa_0": swap.qa_1, "qa_1": swap.qa_0}))
    left_out = write_release(corpus, tmp_path / "r", name="x", licence="MIT", seed=0).manifest["left_out"]
    assert left_out["qa"] == {"a response has no label": 1, "only safe or unsafe is known of a response": 1}
    assert left_out["default"] == {
        "a response has no label": 2,  # two pairs of the response
        "better is not judged": 2,  # and the swapped copy, which nobody judged
        "only safe or unsafe is known of a response": 2,
        "safer is not judged": 1,
    }
    assert left_out["single-dimension"] == {"single is not judged": 1}
    assert left_out["judgements"] == {"the item is no response and no pair of the corpus": 1}
    final = Final.of(corpus)
    for question in ("better", "safer", "single"):
        getattr(final, question)["again"] = getattr(final, question)[swap.id]
    left_out = write_release(corpus, tmp_path / "s", name="x", licence="MIT", seed=0, final=final).manifest["left_out"]
    assert left_out["single-dimension"] == {"the pair came before": 1}


def test_broken_order_writes_nothing(make_corpus, tmp_path: Path) -> None:
    corpus = make_corpus(2)
    wrong = next(p for p in corpus.pairs if corpus.qa[1].id in (p.qa_0, p.qa_1))
    unsafe = 0 if wrong.qa_0 == corpus.qa[1].id else 1
    corpus.judgements.append(Judgement(item=wrong.id, question="safer", value=unsafe, rater="rule"))
    with pytest.raises(PoiseError, match=r"logical-order \(1\), first logical-order at default/train/"):
        write_release(corpus, tmp_path / "r", name="x", licence="MIT", seed=0)
    assert list(tmp_path.iterdir()) == []


def test_unusable_input_is_refused_and_leaves_nothing(make_corpus, tmp_path: Path) -> None:
    def write(corpus: Corpus, folder: str = "r") -> None:
        write_release(corpus, tmp_path / folder, name="x", licence="MIT", seed=0)

    with pytest.raises(PoiseError, match="corpus is empty"):
        write(Corpus())
    leaky = make_corpus(2, test=1)
    leaky.prompts[1] = leaky.prompts[1].model_copy(update={"prompt": leaky.prompts[0].prompt + "?"})
    with pytest.raises(PoiseError, match="split-leak"):
        write(leaky)
    gone = make_corpus(2)
    gone.qa.pop()
    with pytest.raises(PoiseError, match="which the corpus does not hold"):
        write(gone)
    odd = make_corpus(1)
    bad = {"categories": [], "severity": 2}
    odd.judgements.append(Judgement(item=odd.qa[0].id, question="label", value=bad, rater="rule"))
    with pytest.raises(PoiseError, match="no valid label"):
        write(odd)
    odd = make_corpus(1)
    odd.judgements.append(Judgement(item=odd.pairs[0].id, question="better", value="first", rater="rule"))
    with pytest.raises(PoiseError, match="does not fit the columns"):
        write(odd)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(PoiseError, match="not empty"):
        write(make_corpus(1), "full")
    (tmp_path / "empty").mkdir()
    write(make_corpus(1), "empty")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "full"]


def test_seeds_can_be_released(tmp_path: Path) -> None:
    release = write_release(load_seeds(), tmp_path / "r", name="Poise seeds", licence="Apache-2.0", seed=0)
    assert release.validation.ok and release.manifest["left_out"]["default"] == {}
