"""From judgements in tables to the report and to aggregated tables, by the command line."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from poise.annotate.aggregation import aggregate_tables
from poise.annotate.agreement import alpha, read_questions, variables
from poise.cli.main import main
from poise.data.records import DualRecord, JudgementRecord, PartialLabel, QARecord, Record, SingleRecord
from poise.data.tables import TableWriter, open_tables
from poise.data.validate import validate
from poise.errors import PoiseError

SHARED = Path(os.environ.get("POISE_DATA") or Path(__file__).parents[4] / "shared" / "data")
QA = [QARecord(prompt=f"question {i}", response=f"answer {i}") for i in range(4)]
HARM = {"categories": ["Drugs"], "severity": 2, "safe": False}
WORSE = {"categories": ["Drugs", "Violence"], "severity": 3, "safe": False}
FINE: dict[str, Any] = {"categories": [], "severity": 0, "safe": True}


def judged(item: str, question: str, value: Any, rater: str, kind: str = "person", turn: int = 0) -> JudgementRecord:
    """One judgement of an answer, or of a pair named by two hashes."""
    hashes = item.split(":")
    return JudgementRecord.model_validate(
        {
            "item": item,
            "question": question,
            "value": value,
            "rater": rater,
            "rater_kind": kind,
            "round": turn,
            "responses": tuple(hashes),
        }
    )


def write(folder: Path, records: list[Record]) -> Path:
    """Tables of these records."""
    with TableWriter(folder, {"name": "test"}) as writer:
        for record in records:
            writer.add(record)
    return folder


def labelled(folder: Path) -> Path:
    """Four answers by two persons, a model and a rule: harm, fine, a tie among persons, and one that is unjudged."""
    names = [record.item for record in QA]
    rows = [
        *[judged(names[0], "label", v, r) for v, r in ((HARM, "a"), (WORSE, "b"))],
        *[judged(names[1], "label", FINE, r) for r in "ab"],
        *[judged(names[2], "label", v, r) for v, r in ((HARM, "a"), (FINE, "b"))],
        judged(names[3], "label", None, "a"),
        *[judged(name, "label", v, "m", "model") for name, v in zip(names, (HARM, HARM, HARM, None), strict=True)],
        judged(names[1], "label", HARM, "rule", "rule"),
    ]
    return write(folder, [*QA, *rows])


def test_only_what_was_judged_counts(tmp_path: Path) -> None:
    question = read_questions(open_tables(labelled(tmp_path / "t")))["label"]
    assert {rater.name for rater in question.ratings.raters} == {"a", "b", "m"}
    assert (question.ratings.items, len(question.ratings.item), question.unjudged) == (3, 9, 2)
    found = {variable.name: variable.ratings for variable in variables(question)}
    assert list(found)[:3] == ["safe", "severity", "categories"]
    assert len(found) == 3 + 19
    assert found["severity"].values == (0, 1, 2, 3)
    assert found["Violence"].value.sum() == 1
    persons = read_questions(open_tables(tmp_path / "t"), without_models=True)["label"].ratings
    assert {rater.name for rater in persons.raters} == {"a", "b"}
    alone = read_questions(open_tables(tmp_path / "t"), rater=lambda who: who.name == "b")["label"].ratings
    assert len(alone.item) == 3


def test_a_raters_last_round_counts(tmp_path: Path) -> None:
    rows = [judged("x", "severity", v, "a", turn=t) for v, t in ((1, 0), (3, 2), (2, 1))]
    rows += [judged("x", "severity", 0, "b"), judged("x", "severity", 1.0, "b")]
    tables = open_tables(write(tmp_path / "t", [*rows]))
    for round_, values in (("last", [3, 1]), ("first", [1, 1])):
        question = read_questions(tables, round_=round_)["severity"]  # type: ignore[arg-type]
        assert [question.ratings.values[v] for v in question.ratings.value] == values
        assert question.repeated == 3


def test_votes_of_a_crowd_are_its_answers(tmp_path: Path) -> None:
    rows = [judged("x", f"votes-{name}", n, "crowd") for name, n in (("hate", 2), ("fine", 1))]
    rows += [judged("y", f"votes-{name}", n, "crowd") for name, n in (("hate", 0), ("fine", 3))]
    question = read_questions(open_tables(write(tmp_path / "t", [*rows])))["votes"]
    (variable,) = variables(question)
    assert variable.ratings.values == ("fine", "hate")
    assert variable.ratings.counts.tolist() == [[1, 2], [3, 0]]
    # o_fh = o_hf = 2 * 1 / 2 = 1; n = (4, 2): 1 - 5 * 2 / (2 * 8)
    assert alpha(variable.ratings, replicates=0).value == pytest.approx(1 - 10 / 16)


@pytest.mark.parametrize(
    ("question", "value", "message"),
    [
        ("label", {"categories": ["Nonsense"]}, "Nonsense"),
        ("label", {"severity": 7}, "severity 7"),
        ("label", "unsafe", "label 'unsafe'"),
        ("votes-x", 1.5, "1.5 votes"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, question: str, value: Any, message: str) -> None:
    tables = open_tables(write(tmp_path / "t", [judged("x", question, value, "a")]))
    with pytest.raises(PoiseError, match=message):
        variables(next(iter(read_questions(tables).values())))


def test_the_report_by_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(labelled(tmp_path / "t"))
    assert main(["annotate", "agreement", folder, "--out", str(tmp_path / "r"), "--replicates", "200"]) == 0
    text = capsys.readouterr().out
    assert "label: 3 items, 9 judgements of 3 raters; unjudged 2" in text
    assert "no variation" in text
    report = json.loads((tmp_path / "r" / "agreement.json").read_text())
    (question,) = report["questions"]
    found = {variable["name"]: variable for variable in question["variables"]}
    crossed = found["safe"]["persons_and_models"]  # the tie among persons has no majority
    assert (crossed["items"], crossed["confusion"]) == (2, [[1, 0], [1, 0]])
    assert {rater["rater"]: rater["judgements"] for rater in found["safe"]["per_rater"]} == {"a": 3, "b": 3, "m": 3}
    assert found["safe"]["alpha"]["value"] != found["safe"]["alpha_without_models"]["value"]
    assert found["Animal Abuse"]["alpha"]["value"] is None
    assert (tmp_path / "r" / "agreement.svg").read_text().startswith("<?xml")
    assert main(["annotate", "agreement", folder, "--without-models", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["questions"][0]["raters"] == 2
    assert main(["annotate", "agreement", folder, "--out", str(tmp_path / "r")]) == 2
    assert main(["annotate", "agreement", folder, "--rater", "nobody"]) == 2
    assert main(["annotate", "agreement", folder, "--order", "label"]) == 2


@pytest.mark.parametrize(
    "torn",
    [
        {"categories": ["S6"], "severity": 0},
        {"categories": ["Drugs"], "safe": True},
        {"severity": 3, "safe": True},
        {"severity": 0, "safe": False},
        {"categories": [], "severity": 2},
    ],
)
def test_a_label_that_contradicts_itself_is_unjudged(torn: dict[str, Any], tmp_path: Path) -> None:
    name = QA[0].item
    tables = open_tables(write(tmp_path / "t", [QA[0], *[judged(name, "label", torn, r) for r in "abc"]]))
    assert variables(read_questions(tables)["label"]) == []
    made, report = aggregate_tables(tables, read_questions(tables), tmp_path / "o")
    assert [row.label.safe for row in made["qa"].records() if isinstance(row, QARecord)] == [None]
    assert report["counts"]["qa response: undecided"] == 1


def test_free_text_is_named_and_the_rest_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [judged(f"x{i}", "reason", [f"because {i} {r}"], r) for i in range(40) for r in "ab"]
    rows += [judged(f"x{i}", "comment", f"I think {i} {r}", r) for i in range(40) for r in "ab"]
    rows += [judged(f"x{i}", "milliseconds", 1000 * i + len(r), r) for i in range(300) for r in ("a", "bb")]
    rows += [judged(f"x{i}", "tone", "rude" if i % 2 else "kind", r) for i in range(40) for r in "ab"]
    folder = str(write(tmp_path / "t", [*rows]))
    assert main(["annotate", "agreement", folder, "--out", str(tmp_path / "r"), "--replicates", "20"]) == 0
    told = {q["question"]: q for q in json.loads((tmp_path / "r" / "agreement.json").read_text())["questions"]}
    assert told["tone"]["variables"][0]["alpha"]["value"] == 1.0 and "not_measured" not in told["tone"]
    assert {name: question["not_measured"] for name, question in told.items() if not question["variables"]} == {
        "reason": "sets of 80 names",
        "comment": "80 different texts",
        "milliseconds": "600 different values",
    }
    assert "not measured: sets of 80 names" in capsys.readouterr().out


def test_aggregated_labels_keep_the_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(labelled(tmp_path / "t"))
    words = ["annotate", "aggregate", folder, "--method", "majority", "--without-models", "--out", str(tmp_path / "o")]
    assert main(words) == 0
    assert "qa response: undecided: 1" in capsys.readouterr().out
    made = open_tables(tmp_path / "o")
    assert validate(made).ok
    labels = [record.label for record in made["qa"].records() if isinstance(record, QARecord)]
    assert (labels[0].safe, labels[0].severity, labels[0].categories) == (False, 2, ("Drugs",))
    assert (labels[1].safe, labels[1].severity, labels[1].categories) == (True, 0, ())
    assert labels[2] == labels[3] == PartialLabel()
    told = next(iter(made["qa"].records())).provenance
    assert told is not None
    assert told["aggregation"]["response"]["severity"] == [0.0, 0.0, 0.5, 0.5]
    assert main([*words, "--threshold", "0.2", "--force"]) == 2
    report = json.loads((tmp_path / "o" / "aggregation.json").read_text())
    assert report["counts"] == {
        "qa response: labelled": 2,
        "qa response: not judged": 1,
        "qa response: undecided": 1,
    }
    assert main([*words[:3], "--out", str(tmp_path / "p"), "--method", "majority"]) == 0  # the model breaks the tie
    first = [r.label.safe for r in open_tables(tmp_path / "p")["qa"].records() if isinstance(r, QARecord)]
    assert first == [False, True, False, None]


def test_choices_follow_the_judgements_and_the_logical_order(tmp_path: Path) -> None:
    pairs = [
        DualRecord(
            prompt=f"q{i}", responses=("one", "two"), labels=(PartialLabel(safe=s), PartialLabel(safe=t)), safer=0
        )
        for i, (s, t) in enumerate([(True, True), (False, False), (True, False), (False, False)])
    ]
    single = SingleRecord(prompt="q9", responses=("one", "two"))
    names = [":".join(pair.items) for pair in pairs]
    rows = [judged(name, "safer", 1, rater) for name in names[:3] for rater in "abc"]
    rows += [judged(names[3], "safer", v, r) for v, r in ((0, "a"), (1, "b"))]
    rows += [judged(names[0], "better", v, r) for v, r in ((1, "a"), (1, "b"), (0, "c"))]
    rows += [judged(":".join(single.items), "single", 1, "a")]
    rows += [judged(name, "safe", False, r) for name in pairs[0].items[1:] for r in "ab"]
    folder = str(write(tmp_path / "t", [*pairs, single, *rows]))
    assert main(["annotate", "aggregate", folder, "--method", "majority", "--out", str(tmp_path / "o")]) == 0
    made = open_tables(tmp_path / "o")
    found = [pair for pair in made["default"].records() if isinstance(pair, DualRecord)]
    assert [label.safe for label in found[0].labels] == [True, False]  # the second was judged, and is now unsafe
    # so the first is safer by order, as in the third pair; the second was chosen, and the last is a tie
    assert [pair.safer for pair in found] == [0, 1, 0, None]
    assert [pair.better for pair in found] == [1, None, None, None]
    assert [pair.better for pair in made["single-dimension"].records() if isinstance(pair, SingleRecord)] == [1]
    counts = json.loads((tmp_path / "o" / "aggregation.json").read_text())["counts"]
    assert counts["default safer: by the logical order"] == 2
    assert counts["default safer: undecided"] == 1


def test_words_decide_nothing(tmp_path: Path) -> None:
    pair = DualRecord(prompt="q", responses=("one", "two"))
    known = QA[2].model_copy(update={"label": PartialLabel(safe=False)})
    rows = [judged(QA[0].item, "safe", v, r) for v, r in ((False, "a"), (False, "b"), ("safe", "c"))]
    rows += [judged(QA[1].item, "safe", v, r) for v, r in ((True, "a"), ("unsafe", "b"), ("unsafe", "c"))]
    rows += [judged(known.item, "safe", "safe", r) for r in "ab"]
    rows += [judged(":".join(pair.items), "better", v, r) for v, r in ((0, "a"), (0, "b"), (0, "c"), ("tie", "d"))]
    rows += [judged(":".join(pair.items), "safer", v, r) for v, r in ((True, "a"), (True, "b"), (0, "c"))]
    tables = open_tables(write(tmp_path / "t", [QA[0], QA[1], known, pair, *rows]))
    made, report = aggregate_tables(tables, read_questions(tables), tmp_path / "o", "majority")
    found = [row.label.safe for row in made["qa"].records() if isinstance(row, QARecord)]
    assert found == [False, True, False]  # words alone leave the row as it was
    (row,) = made["default"].records()
    assert isinstance(row, DualRecord)
    assert (row.better, row.safer) == (0, 0)
    assert report["counts"]["qa response: not judged"] == 1
    (variable,) = variables(read_questions(tables)["better"])
    assert set(variable.ratings.values) == {0, "tie"}  # agreement keeps the tie


def test_choices_alone_keep_the_logical_order(tmp_path: Path) -> None:
    labels = PartialLabel(safe=True), PartialLabel(safe=False, severity=3)
    pair = DualRecord(prompt="q", responses=("one", "two"), labels=labels)
    rows = [judged(":".join(pair.items), "safer", 1, r) for r in "ab"]
    tables = open_tables(write(tmp_path / "t", [pair, *rows]))
    made, report = aggregate_tables(tables, read_questions(tables), tmp_path / "o", "majority")
    assert [row.safer for row in made["default"].records() if isinstance(row, DualRecord)] == [0]
    assert report["counts"]["default safer: by the logical order"] == 1


def test_no_judgements_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = str(write(tmp_path / "t", [*QA]))
    assert main(["annotate", "agreement", empty]) == 2
    other = str(write(tmp_path / "u", [*QA, judged(QA[0].item, "tone", "mild", "a")]))
    assert main(["annotate", "aggregate", other, "--out", str(tmp_path / "o")]) == 2
    assert "no judgements of label, safe" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


REAL = {
    # set, question, distance: alpha by krippendorff 0.9.0 (PandaLM: of the rows that can be read), pairable items
    ("pyrit_severity", "severity", "ordinal"): (0.8344, 216),
    ("pyrit_severity", "severity", "nominal"): (0.4391, 216),
    ("xstest_completions", "compliance", "nominal"): (0.9470, 1103),
    ("pandalm_human", "better", "nominal"): (0.8752, 531),
    ("tulu_human_eval", "acceptable-0", "nominal"): (0.4261, 42),
    ("tulu_human_eval", "preference", "nominal"): (0.2298, 42),
    ("davidson_hate_offensive", "votes", "nominal"): (0.5445, 17004),
}


@pytest.mark.parametrize("name", sorted({key[0] for key in REAL}))
def test_real_raters(name: str, tmp_path: Path) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"{SHARED / name} is not there")
    assert main(["data", "read", str(SHARED / name), "--format", name, "--out", str(tmp_path / "t")]) == 0
    questions = read_questions(open_tables(tmp_path / "t"))
    for (folder, question, distance), (value, items) in REAL.items():
        if folder == name:
            (variable,) = variables(questions[question])
            found = alpha(variable.ratings, distance, replicates=100)
            assert (round(found.value, 4), found.items) == (value, items)
            assert found.low < found.value < found.high
            assert not math.isnan(found.value)
