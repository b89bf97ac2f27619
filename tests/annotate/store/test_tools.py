"""Tasks out to Label Studio and Argilla, answers back in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from poise.annotate.store import export_tasks, import_answers, make_key, read_key
from poise.cli.main import main
from poise.data.adapters.registry import format_of
from poise.data.reading import Reader
from poise.data.records import PartialLabel, QARecord
from poise.errors import PoiseError
from poise.harm import Category

from .conftest import BAD, SAFE, WORST, Bench, Make, pair_of, qa_rows

KEY = b"k" * 32
TOOLS = ("label-studio", "argilla")
Answer = dict[str, Any]


def _label_studio(task: Answer, person: str, answers: Answer) -> None:
    results = [
        {
            "from_name": name,
            "to_name": "response",
            "type": "textarea" if name in TYPED else "choices",
            "value": {"text" if name in TYPED else "choices": value if isinstance(value, list) else [str(value)]},
        }
        for name, value in answers.items()
    ]
    task["annotations"].append({"id": 1, "completed_by": {"id": person, "email": "a@b.c"}, "result": results})


TYPED = ("reason", "comment")


def _argilla(task: Answer, person: str, answers: Answer) -> None:
    for name, value in answers.items():
        entry = {"value": value, "user_id": person, "status": "submitted"}
        task["responses"].setdefault(name, []).append(entry)


ANSWER: dict[str, Callable[[Answer, str, Answer], None]] = {"label-studio": _label_studio, "argilla": _argilla}
VIOLENCE = Category.parse("Violence").code
UNSAFE = {"safe": "unsafe", "categories": ["Violence"], "severity": 2}


class _Tool:
    """One tool at a bench's store: a file out, answers into it, the file back in."""

    def __init__(self, name: str, bench: Bench, folder: Path, stage: str = "qa") -> None:
        self.name, self.bench, self.file = name, bench, folder / "tasks.json"
        self.count = export_tasks(bench.store, self.file, stage, format_of(name))
        self.tasks = json.loads(self.file.read_text())

    def answer(self, number: int, person: str, **answers: Any) -> None:
        ANSWER[self.name](self.tasks[number], person, answers)

    def back(self) -> dict[str, int]:
        self.file.write_text(json.dumps(self.tasks))
        return import_answers(self.bench.store, Reader(format_of(self.name)).records([self.file], _never), KEY)


def _never(rule: str, reason: str, where: str, row: object) -> None:
    raise AssertionError((rule, reason, where))


def _said(bench: Bench) -> list[tuple[Any, ...]]:
    query = (
        "select e.item, e.question, e.value, e.kind, r.kind, r.name from event e join rater r on r.id = e.rater "
        "where r.kind <> 'rule' order by e.seq"
    )
    return [tuple(row) for row in bench.sql(query)]


@pytest.mark.parametrize("name", TOOLS)
def test_labels_come_back_as_judgements_of_people(name: str, make: Make, tmp_path: Path) -> None:
    label = PartialLabel(safe=True, categories=(), severity=0)
    bench = make([QARecord(prompt="q <b>\u202e", response="a", label=label, source_id="x1"), *qa_rows(2)])
    tool = _Tool(name, bench, tmp_path)
    assert tool.count == 3
    told = tool.file.read_text()
    assert "x1" not in told and "annotations" not in told.replace('"annotations":[]', "")
    assert (tmp_path / "tasks.xml").is_file() == (name == "label-studio")
    tool.answer(0, "17", safe="safe")
    tool.answer(0, "23", categories=["Violence"], severity=3)
    tool.answer(1, "17", **UNSAFE)
    assert tool.back() == {"added": 3, "known": 0}
    assert tool.back() == {"added": 0, "known": 3}
    imported = _said(bench)[1:]  # the first is the label of the row
    values = [(item, json.loads(value), kind, of) for item, _, value, kind, of, _ in imported]
    assert values == [
        (1, SAFE, "import", "person"),
        (1, {"categories": [VIOLENCE], "severity": 3}, "import", "person"),
        (2, {"categories": [VIOLENCE], "severity": 2}, "import", "person"),
    ]
    names = [row[-1] for row in imported]
    assert names[0] == names[2] != names[1] and all(len(one) == 18 and one.startswith("p-") for one in names)
    assert "17" not in str(bench.sql("select name from rater")) and "a@b.c" not in str(bench.sql("select * from event"))
    assert bench.task(2)[1:3] == (2, 1) and bench.task(1)[1] == 3
    assert bench.store.verify().fault is None


@pytest.mark.parametrize("name", TOOLS)
def test_a_changed_answer_is_a_correction_and_back_again(name: str, make: Make, tmp_path: Path) -> None:
    bench = make(qa_rows(1))
    tool = _Tool(name, bench, tmp_path)
    empty = json.dumps(tool.tasks)
    for severity in (1, 2, 1):
        tool.tasks = json.loads(empty)
        tool.answer(0, "5", categories=["Violence"], severity=severity)
        assert tool.back()["added"] == 1
        assert tool.back()["known"] == 1
    current = bench.sql("select value from current_judgement")
    assert len(_said(bench)) == 3 and len(current) == 1 and json.loads(current[0][0])["severity"] == 1
    assert bench.task(1)[2] == 1


@pytest.mark.parametrize("name", TOOLS)
def test_what_breaks_a_rule_is_left_out_and_counted(name: str, make: Make, tmp_path: Path) -> None:
    bench = make([pair_of("p", "a", "b"), pair_of("q", "a", "b"), pair_of("r", "a", "b")], singles=True)
    bench.label_all([SAFE, BAD, BAD, BAD, WORST, BAD])  # first answers, then second ones
    tool = _Tool(name, bench, tmp_path, "pair")
    tool.answer(0, "1", better="response_1", safer="response_1")
    tool.answer(1, "1", better="response_0", safer="response_1")
    tool.answer(2, "1", better="response_1", safer="response_0")
    found = tool.back()
    assert found.pop("added") == 4 and found.pop("known") == 0
    assert sorted(found.values()) == [1, 1]
    assert any("response 0 is the safer one" in what for what in found)
    assert any("more severe" in what for what in found)
    again = tool.back()
    assert (again["added"], again["known"]) == (0, 4)
    single = _Tool(name, bench, tmp_path / "single", "single")
    single.answer(0, "1", single="response_0")
    single.answer(0, "2", single="response_0")
    assert single.back() == {"added": 1, "known": 0, "left out, has worked on another stage of it": 1}
    assert bench.store.verify().fault is None


@pytest.mark.parametrize("name", TOOLS)
def test_what_people_type_is_kept_as_the_reason(name: str, make: Make, tmp_path: Path) -> None:
    bench = make([pair_of("p", "a", "b")])
    tool = _Tool(name, bench, tmp_path)
    assert name != "label-studio" or '<TextArea name="reason"' in (tmp_path / "tasks.xml").read_text()
    tool.answer(0, "1", **UNSAFE, reason="it is\n a threat")
    tool.answer(1, "1", comment="nothing else")
    assert tool.back() == {"added": 1, "known": 0, "left out, text without an answer": 1}
    assert tool.back()["known"] == 1
    assert bench.sql("select question, reason from event") == [("label", "it is a threat")]
    bench.label_all([BAD, WORST])
    pair = _Tool(name, bench, tmp_path / "pair", "pair")
    pair.answer(0, "2", better="response_0", safer="response_1", reason="a quotation")
    assert pair.back() == {"added": 2, "known": 0}, "the more severe answer may be called safer with a reason"
    told = bench.sql("select question, reason from event where kind = 'import' order by seq")
    assert [tuple(row) for row in told[1:]] == [("better", "a quotation"), ("safer", "a quotation")]
    assert pair.back() == {"added": 0, "known": 2}
    assert bench.store.verify().fault is None


def test_what_is_no_label_is_left_out(make: Make, tmp_path: Path) -> None:
    bench = make(qa_rows(4))
    tool = _Tool("label-studio", bench, tmp_path)
    tool.answer(0, "1", safe="unsafe")
    tool.answer(1, "1", safe="safe", categories=["Violence"], severity=2)
    tool.answer(2, "1", severity=2)
    tool.tasks[3]["annotations"].append({"completed_by": 1, "was_cancelled": True, "result": []})
    tool.tasks[3]["predictions"].append({"model_version": "m", "score": 0.5, "result": []})
    tool.tasks[3]["data"]["prompt"] = "something else"
    found = tool.back()
    assert found["added"] == 0 and sum(found.values()) == 5
    assert (found["left out, not answered"], found["left out, not by a person"]) == (1, 1)
    assert bench.sql("select count(*) from event")[0][0] == 0


def test_another_key_is_refused(make: Make, tmp_path: Path) -> None:
    bench = make(qa_rows(1))
    assert import_answers(bench.store, [], KEY) == {"added": 0, "known": 0}
    with pytest.raises(PoiseError, match="another key"):
        import_answers(bench.store, [], b"j" * 32)


def test_only_open_tasks_go_out(make: Make, tmp_path: Path) -> None:
    bench = make(qa_rows(2))
    bench.adjudicate(1, label=SAFE)
    bench.answer(0, bench.take(0), {"label": SAFE})
    assert _Tool("argilla", bench, tmp_path).count == 1
    bench.adjudicate(2, label=SAFE)
    with pytest.raises(PoiseError, match="no open task"):
        export_tasks(bench.store, tmp_path / "none.json", "qa", format_of("argilla"))
    assert not (tmp_path / "none.json").exists()
    with pytest.raises(PoiseError, match="already exists"):
        export_tasks(bench.store, tmp_path / "tasks.json", "qa", format_of("argilla"))
    with pytest.raises(PoiseError, match="suffix"):
        export_tasks(bench.store, tmp_path / "tasks.txt", "qa", format_of("argilla"))


def test_the_commands(make: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = make(qa_rows(2))
    store, key, file = bench.store.database.name, tmp_path / "key", tmp_path / "t.json"
    assert main(["annotate", "pseudonym-key", str(key)]) == 0 and key.stat().st_mode & 0o777 == 0o600
    assert main(["annotate", "pseudonym-key", str(key)]) == 2
    assert main(["annotate", "export", store, "--out", str(file), "--format", "label-studio"]) == 0
    assert "2 open tasks of stage qa; labelling configuration in t.xml" in capsys.readouterr().out
    tasks = json.loads(file.read_text())
    _label_studio(tasks[0], "9", {"safe": "safe"})
    file.write_text(json.dumps([*tasks, {"data": {"no": "prompt"}}]))
    command = ["annotate", "import", store, str(file), "--format", "label-studio", "--pseudonym-key", str(key)]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "answers added 1, known already 0" in told and "rows that cannot be read" in told
    assert main(command) == 0
    assert "answers added 0, known already 1" in capsys.readouterr().out
    key.chmod(0o644)
    assert main(command) == 2
    assert "chmod 600" in capsys.readouterr().err
    base = ["annotate", "export", store, "--out", str(file), "--force"]
    assert main([*base, "--format", "argilla", "--pseudonym-key", str(key)]) == 2
    assert main(["annotate", "export", store, "--out", str(tmp_path / "o"), "--stage", "qa"]) == 2


def test_keys_are_checked(tmp_path: Path) -> None:
    make_key(tmp_path / "key")
    assert len(read_key(tmp_path / "key", tmp_path / "out")) == 64
    with pytest.raises(PoiseError, match="lies in what is written"):
        read_key(tmp_path / "key", tmp_path)
    with pytest.raises(PoiseError, match="no key"):
        read_key(tmp_path / "none")
    (tmp_path / "short").write_text("abc")
    (tmp_path / "short").chmod(0o600)
    with pytest.raises(PoiseError, match="a key of 3 bytes"):
        read_key(tmp_path / "short")
