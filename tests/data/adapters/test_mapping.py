"""Mapping files: each part of the language, its errors, and the sets that come with one."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from poise.data.adapters import read
from poise.data.adapters.base import BadRowError
from poise.data.adapters.mapping import load_mapping, mapping_of
from poise.data.adapters.registry import SETS, format_of, mappings
from poise.data.containers import Line, find_files, write_lines
from poise.data.reading import Reader
from poise.data.records import DualRecord, JudgementRecord, PartialLabel, PromptRecord, QARecord, Record, SingleRecord
from poise.errors import PoiseError

QA = {"prompt": "p", "response": "r"}


def decode(mapping: dict[str, Any], row: dict[str, Any]) -> list[Record]:
    return list(mapping_of({"name": "x", **mapping}, "test").decode(Line(row, Path("f"), 1)))


def label(part: dict[str, Any], **row: Any) -> PartialLabel:
    (record,) = decode({"unit": "qa", "columns": {"prompt": "prompt", "response": "response"}, "label": part}, QA | row)
    assert isinstance(record, QARecord)
    return record.label


def test_values_bins_and_otherwise() -> None:
    flag = {"safe": {"column": "v", "values": {"ok": True, "bad": False}}}
    assert [label(flag, v=v).safe for v in ("ok", "bad", "?", None)] == [True, False, None, None]
    strict = {"safe": {"column": "v", "values": {True: False, False: True}, "strict": True}}
    assert label(strict, v=True).safe is False
    with pytest.raises(BadRowError, match="does not name"):
        label(strict, v=1)  # 1 is not true
    scale = {"severity": {"column": "v", "bins": [0.25, 0.5, 0.75]}}
    assert [label(scale, v=v).severity for v in (0, 0.25, 0.6, 1)] == [0, 1, 2, 3]
    assert label(scale, v=float("nan")).severity is None  # no number is not a low one
    then = {"safe": {"column": "v", "bins": [0.25, 0.5], "then": {0: True, 2: False}}}
    assert [label(then, v=v).safe for v in (0.1, 0.3, 0.5)] == [True, None, False]
    other = {"safe": {"column": "v", "values": {"a": True}, "else": {"column": "w", "values": {"b": False}}}}
    assert [label(other, v=v, w=w).safe for v, w in (("a", "b"), ("?", "b"), ("?", "?"))] == [True, False, None]
    assert label({"safe": {"column": "deep.er", "values": {1: True}}}, deep={"er": 1}).safe is True
    with pytest.raises(BadRowError, match="missing-column: no column 'v'"):
        label(flag)


def test_categories_of_another_taxonomy() -> None:
    part = {"safe": {"column": "ok"}, "categories": {"column": "kinds"}, "taxonomy": "beavertails-14"}
    assert label(part, ok=False, kinds={"self_harm": 1, "animal_abuse": 0}).categories == ("self_harm",)
    assert label(part, ok=False, kinds="self_harm").categories == ("self_harm",)
    assert label(part, ok=True, kinds=["self_harm"]).categories == ()  # of a safe row none applies
    partial = {"self_harm": 0, "animal_abuse": None}  # nobody was asked about animals: this row is not known to be safe
    assert label(part, ok=True, kinds=partial) == PartialLabel(taxonomy="beavertails-14")
    assert label(part, ok=False, kinds=partial) == PartialLabel(safe=False, taxonomy="beavertails-14")
    with pytest.raises(BadRowError, match="unknown-category"):
        label(part, ok=False, kinds=["tea"])


def test_pairs_votes_and_judgements() -> None:
    mapping = {
        "unit": "dual",
        "columns": {"prompt": {"column": "q", "join": ["context"]}, "response_0": "a", "response_1": "b"},
        "better": {"column": "votes", "vote": "unopposed", "values": {1: 0, 2: 1}},
        "judgements": [{"question": "better", "column": "votes", "each": True, "values": {1: 0, 2: 1}}],
        "keep": ["set"],
    }
    row = {"q": "p", "context": "c", "a": "x", "b": "y", "set": "s"}
    pair, *judged = decode(mapping, row | {"votes": [2, 2, 0]})
    assert isinstance(pair, DualRecord) and pair.prompt == "p\n\nc" and pair.provenance == {"set": "s"}
    assert pair.better == 1
    assert [(j.rater, j.value) for j in judged if isinstance(j, JudgementRecord)] == [
        ("x:annotator-1", 1),
        ("x:annotator-2", 1),
        ("x:annotator-3", None),
    ]
    for votes, better in (([1, 1, 2], None), ([0, 0, 1], None), ([1, 0], 0), ([0, 0, 0], None)):
        found = decode(mapping, row | {"votes": votes})[0]
        assert isinstance(found, DualRecord) and found.better == better
    with pytest.raises(BadRowError, match="same-responses"):
        decode(mapping, row | {"votes": [1], "b": "x"})


@pytest.mark.parametrize("number", range(6))
def test_labels_follow_chosen_and_rejected_to_their_places(number: int) -> None:
    mapping = {
        "unit": "dual",
        "columns": {"prompt": "p", "chosen": "c", "rejected": "r"},
        "labels": [{"safe": {"const": True}}, {"safe": {"const": False}}],
        "safer": {"const": 0},
    }
    (pair,) = decode(mapping, {"p": str(number), "c": "kind", "r": "rude"})
    assert isinstance(pair, DualRecord) and pair.safer is not None
    assert pair.responses[pair.safer] == "kind"
    assert [label.safe for label in pair.labels] == [text == "kind" for text in pair.responses]


@pytest.mark.parametrize("number", range(6))
def test_judgements_of_a_pair_follow_chosen_and_rejected(number: int) -> None:
    mapping = {
        "unit": "single",
        "columns": {"prompt": "p", "chosen": "c", "rejected": "r"},
        "judgements": [
            {"question": "better", "column": "votes", "each": True, "values": {"c": 0, "r": 1}},
            {"question": "votes", "column": "n"},
        ],
    }
    row = {"p": str(number), "c": "kind", "r": "rude", "votes": ["c", "r", "?"], "n": 1}
    pair, *judged = decode(mapping, row)
    assert isinstance(pair, SingleRecord)
    values = [j.value for j in judged if isinstance(j, JudgementRecord)]
    assert [None if v is None else pair.responses[v] for v in values[:3]] == ["kind", "rude", None]
    assert values[3] == 1  # no response id


def test_a_file_of_words_and_nested_columns(tmp_path: Path) -> None:
    """yes and no are words in a mapping; a column inside another is no reason to refuse the file."""
    (tmp_path / "m.yaml").write_text(
        "name: x\nunit: qa\ncolumns: {prompt: said.q, response: said.a}\n"
        "label: {safe: {column: ok, values: {yes: true, no: false}, strict: true}}\n"
        "drop: [{column: lang, values: [off], reason: not ours}]\n",
        encoding="utf-8",
    )
    said = {"q": "p", "a": "r"}
    write_lines(tmp_path / "f.jsonl", [{"said": said, "ok": ok, "lang": "en"} for ok in ("yes", "no")])
    read_in = list(Reader(load_mapping(tmp_path / "m.yaml")).records([tmp_path / "f.jsonl"], pytest.fail))
    assert [r.label.safe for r in read_in if isinstance(r, QARecord)] == [True, False]


def test_what_a_mapping_names_must_be_there() -> None:
    joined = {"unit": "qa", "columns": {"prompt": {"column": "q", "join": ["more"]}, "response": "r"}}
    assert decode(joined, {"q": "p", "r": "r", "more": None})[0].columns()["prompt"] == "p"
    for mapping, row, rule in (
        (joined, {"q": "p", "r": "r"}, "missing-column"),
        (joined, {"q": " ", "r": "r", "more": "m"}, "empty-text"),  # what is joined does not stand for a question
        ({**joined, "drop": [{"column": "x", "values": [1], "reason": "no"}]}, {"q": "p", "r": "r"}, "missing-column"),
    ):
        with pytest.raises(BadRowError, match=rule):
            decode(mapping, row)


def test_messages_drop_and_prompts() -> None:
    chat = {"unit": "qa", "columns": {}, "messages": {"column": "m", "completion": "c"}}
    said = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    (record,) = decode(chat, {"m": said, "c": [{"role": "assistant", "content": "d"}]})
    assert isinstance(record, QARecord) and (record.prompt, record.response, len(record.turns)) == ("c", "d", 2)
    dropping = {
        "unit": "prompt",
        "columns": {"prompt": "q"},
        "drop": [{"column": "lang", "values": ["xx"], "reason": "not ours"}],
    }
    with pytest.raises(BadRowError, match="not ours"):
        decode(dropping, {"q": "p", "lang": "xx"})
    (prompt,) = decode(dropping, {"q": "p", "lang": "en"})
    assert isinstance(prompt, PromptRecord)
    with pytest.raises(BadRowError, match="empty-text"):
        decode(dropping, {"q": " ", "lang": "en"})


@pytest.mark.parametrize(
    ("mapping", "error"),
    [
        ({"unit": "qa", "columns": {"promt": "q"}}, "did you mean 'prompt'"),
        ({"unit": "qa", "columns": {"prompt": {"colum": "q"}}}, "did you mean 'column'"),
        ({"unit": "qa", "columns": {}, "label": {"saef": {}}}, "did you mean 'safe'"),
        (
            {"unit": "qa", "columns": {}, "judgements": [{"raterr": "x", "question": "q", "column": "c"}]},
            "did you mean 'rater'",
        ),
        ({"unit": "qa", "columns": {"prompt": "q"}}, "must name prompt, response"),
        ({"unit": "dual", "columns": {"prompt": "q", "chosen": "c"}}, "or prompt, chosen, rejected"),
        ({"unit": "qa", "columns": {"prompt": "q", "response": "r", "kind": "k"}}, "has no column 'kind'"),
        (
            {"unit": "single", "columns": {"prompt": "q", "chosen": "c", "rejected": "r"}, "safer": {"const": 0}},
            "'safer' goes with unit dual",
        ),
        ({"unit": "pair", "columns": {}}, "unit"),
        ({"unit": "qa", "columns": {}, "lable": {}}, "did you mean 'label'"),
        ({"unit": "qa", "columns": {}, "label": {"taxonomy": "beaver-14"}}, "beavertails-14"),
        ([], "mapping"),
    ],
)
def test_a_wrong_mapping_says_what_and_how(mapping: Any, error: str) -> None:
    with pytest.raises(PoiseError, match=error):
        mapping_of({"name": "x", **mapping} if isinstance(mapping, dict) else mapping, "x.yaml")


def test_a_mapping_file_that_is_not_there_or_no_yaml(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: [", encoding="utf-8")
    for path in (tmp_path / "a.yaml", tmp_path / "none.yaml"):
        with pytest.raises(PoiseError, match="no readable mapping"):
            load_mapping(path)


def test_shipped_mappings_are_described() -> None:
    assert len(mappings()) >= 40
    assert all(form.about and form.licence for form in mappings().values())


def test_every_real_set_can_be_read(real_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every folder, through an adapter or a mapping file; the rows that are left out are few and say why."""
    folders = [folder for folder in sorted(real_data.iterdir()) if folder.is_dir()]
    assert {folder.name for folder in folders} >= set(SETS)
    lines = []
    for folder in folders:
        told = re.search(r"\b(\d+) rows", (folder / "SOURCE.md").read_text(encoding="utf-8"))
        left_out: Counter[str] = Counter()
        units: Counter[str] = Counter()
        reader = Reader(format_of(folder.name))
        for record in reader.records(find_files(folder), lambda rule, *_, c=left_out: c.update([rule])):
            units[record.unit] += 1
        rows = sum(n for unit, n in units.items() if unit != "judgements")
        lines.append(f"{folder.name}: {dict(units)}, left out {dict(left_out)}")
        assert told is not None and rows + left_out.total() == int(told[1])
        assert left_out.total() <= 0.05 * int(told[1])
    with capsys.disabled():
        print("\n" + "\n".join(lines))


def test_a_set_becomes_a_corpus(real_data: Path) -> None:
    """PandaLM: 604 rows, of which 25 lack a text and 97 have no winner."""
    corpus = read("pandalm_human", real_data)
    assert sum(corpus.dropped.values()) == 122 and corpus.dropped["nothing is judged"] == 97
    assert {judgement.question for judgement in corpus.judgements} == {"better"}
    assert {row.provenance.licence for row in corpus.qa} == {"Apache-2.0"}
