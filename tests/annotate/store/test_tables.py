"""Tables in and out, the commands, and the same bytes from both databases."""

from __future__ import annotations

import filecmp
from pathlib import Path

import pytest
import sqlalchemy as sa

from poise.annotate.store import AnnotationStore, OverlapPolicy, export_tables, import_tables
from poise.cli.main import main
from poise.data.records import DualRecord, JudgementRecord, PartialLabel, QARecord
from poise.data.synth import synthesize
from poise.data.tables import Tables, open_tables
from poise.data.validate import validate

from .conftest import BAD, PLAIN, SAFE, Make, pair_of, qa_rows, write_rows
from .script import play, rows

KEEP = OverlapPolicy(keep_labels=True, random_share=0)
PUBLIC = ("is_safe", "harm_category", "severity_level", "better_response_id", "safer_response_id")


def _by_hash(tables: Tables, unit: str) -> dict[tuple[str, ...], dict[str, object]]:
    found = {}
    for batch in tables[unit].batches():
        for row in batch.to_pylist():
            key = tuple(row[name] for name in sorted(row) if name.endswith("sha256"))
            found[key] = {name: value for name, value in row.items() if name not in ("provenance", "source_id")}
    return found


def test_kept_labels_come_back_as_they_were(tmp_path: Path) -> None:
    synthesize(tmp_path / "source", 0.001, 3)
    source = open_tables(tmp_path / "source")
    with AnnotationStore.create(tmp_path / "s.db", KEEP) as store:
        import_tables(store, source, singles=False)
        made = export_tables(store, tmp_path / "out")
        again = import_tables(store, source, singles=False)
        assert store.verify().fault is None
    assert again == {"left out, decided by the order": again["left out, decided by the order"], "events": 0}
    for unit in ("default", "qa"):
        there, back = _by_hash(source, unit), _by_hash(made, unit)
        assert set(there) <= set(back)
        assert [key for key in there if there[key] != back[key]] == []
    found = validate(made)
    assert {rule for rule, rows in found.errors.items() if rows} == set()


def test_what_is_not_settled_is_not_told(make: Make, tmp_path: Path) -> None:
    bench = make([pair_of("p", "one", "two")], PLAIN)
    bench.answer(0, bench.take(0), {"label": SAFE})
    made = export_tables(bench.store, tmp_path / "out")
    assert [record.label.safe for record in made["qa"].records() if isinstance(record, QARecord)] == [None, None]
    bench.answer(1, bench.take(1), {"label": SAFE})
    bench.adjudicate(2, label=BAD)
    made = export_tables(bench.store, tmp_path / "out", replace=True)
    (row,) = made["default"].records()
    assert isinstance(row, DualRecord)
    assert (row.labels[0].safe, row.labels[1].severity, row.better, row.safer) == (True, 2, None, 0)
    judged = [record for record in made["judgements"].records() if isinstance(record, JudgementRecord)]
    assert [(record.rater, record.rater_kind, record.question) for record in judged] == [
        ("person-1", "person", "label"),
        ("person-2", "person", "label"),
        ("person-3", "person", "label"),
        ("logical-order", "rule", "safer"),
    ]
    assert all(record.policy and record.provenance and record.provenance["guideline"] == "1.0.0" for record in judged)


def test_exported_judgements_can_be_imported(tmp_path: Path) -> None:
    now = [1000.0]
    with AnnotationStore.create(tmp_path / "a.db", PLAIN, lambda: now[0]) as store:
        import_tables(store, open_tables(write_rows(tmp_path / "rows", rows())))
        play(store, now)
        first = export_tables(store, tmp_path / "one")
    with AnnotationStore.create(tmp_path / "b.db", KEEP) as store:
        counts = import_tables(store, first)
        second = export_tables(store, tmp_path / "two")

    def said(tables: Tables) -> set[tuple[str, str, str, str, int | None]]:
        records = [r for r in tables["judgements"].records() if isinstance(r, JudgementRecord)]
        return {
            (r.item, r.question, r.rater, r.rater_kind, str(r.value))
            for r in records
            if r.rater_kind in ("person", "model")
            and r.question == "label"
            and (r.provenance or {})["kind"] in ("judge", "import")
        }

    assert counts["qa"] == 7
    assert said(first) and said(first) <= said(second)


def test_rows_that_contradict_each_other_leave_an_item_unjudged(make: Make) -> None:
    def row(response: str, severity: int) -> DualRecord:
        labels = tuple(
            PartialLabel(safe=not s, categories=("Violence",) if s else (), severity=s) for s in (severity, 1)
        )
        return DualRecord(prompt="p", responses=("same", response), labels=labels, dataset="set")

    bench = make([row("a", 0), row("b", 2), row("c", 0)], KEEP)
    assert bench.final(1, "label").value is None
    assert bench.task(1).state == "open"
    assert bench.final(2, "label").settled
    assert bench.sql("select value, reason from event where item = 1 order by seq") == [
        ('{"categories":[],"severity":0}', None),
        (None, "rows contradict each other"),
    ]


def test_what_is_unjudged_contradicts_nothing(tmp_path: Path) -> None:
    (row,) = qa_rows(1)
    assert isinstance(row, QARecord)
    rounds = {"a": (None, SAFE), "b": (SAFE, None), "c": (None, SAFE, None, BAD, None, SAFE)}
    judged = [
        JudgementRecord(item=row.item, question="label", value=value, rater=rater, round=n, responses=(row.item,))
        for rater, values in rounds.items()
        for n, value in enumerate(values)
    ]
    tables = open_tables(write_rows(tmp_path / "rows", [row, *judged]))
    query = "select r.name, j.value, j.reason from current_judgement j join rater r on r.id = j.rater order by r.name"
    with AnnotationStore.create(tmp_path / "a.db", PLAIN) as store:
        import_tables(store, tables)
        assert import_tables(store, tables)["events"] == 0
        with store.database.read() as db:
            told = [tuple(line) for line in db.execute(sa.text(query))]
    safe = '{"categories":[],"severity":0}'
    assert told == [("a", safe, None), ("b", safe, None), ("c", None, "rows contradict each other")]


def test_a_pair_that_stands_the_other_way_round_is_the_same(make: Make, tmp_path: Path) -> None:
    bench = make([pair_of("p", "a", "b", better=0), pair_of("p", "b", "a", better=1)], KEEP)
    assert len(bench.items("pair")) == 1
    assert bench.sql("select value from event where question = 'better'") == [('{"choice":0,"strength":null}',)]


def test_a_safe_flag_alone_is_kept_but_is_no_label(make: Make) -> None:
    bench = make(qa_rows(1, label=PartialLabel(safe=True), dataset="flags"), KEEP)
    assert bench.sql("select question, value from event") == [("safe", "true")]
    assert bench.task(1).state == "open"


def test_the_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_rows(tmp_path / "rows", rows())
    store, out = str(tmp_path / "s.db"), str(tmp_path / "out")
    assert main(["annotate", "init", store, str(source), "--random-share", "0"]) == 0
    assert "qa 7, pair 6, single 6" in capsys.readouterr().out
    assert main(["annotate", "status", store]) == 0
    assert "pair    waiting             6" in capsys.readouterr().out
    assert main(["annotate", "export", store, "--out", out]) == 0
    assert "default 6, single-dimension 6, qa 7, judgements 2" in capsys.readouterr().out
    assert main(["annotate", "export", store, "--out", out]) == 2
    assert main(["annotate", "verify", store]) == 0
    told = capsys.readouterr().out
    head = told.split()[-1]
    assert "2 events, whole" in told
    assert main(["annotate", "verify", store, "--head", head]) == 0
    assert main(["annotate", "verify", store, "--head", "f" * 64]) == 4
    assert main(["annotate", "init", store, str(source), "--people", "4", "--more", "3"]) == 2
    assert main(["annotate", "init", store, str(source), "--people", "1"]) == 2
    assert "another policy" in capsys.readouterr().err
    assert main(["annotate", "verify", str(tmp_path / "none.db")]) == 2


def _equal(one: Path, two: Path) -> None:
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert files == sorted(path.relative_to(two) for path in two.rglob("*") if path.is_file())
    assert filecmp.cmpfiles(one, two, [str(file) for file in files], shallow=False)[0] == [str(file) for file in files]


def _played(where: str | Path, folder: Path, source: Path) -> tuple[Path, str]:
    now = [1000.0]
    with AnnotationStore.create(where, PLAIN, lambda: now[0]) as store:
        import_tables(store, open_tables(source))
        play(store, now)
        export_tables(store, folder)
        checked = store.verify()
        assert checked.fault is None and checked.events > 50
    return folder, checked.head


def test_the_same_log_gives_the_same_bytes(tmp_path: Path) -> None:
    source = write_rows(tmp_path / "rows", rows())
    one, head = _played(tmp_path / "a.db", tmp_path / "one", source)
    two, other = _played(tmp_path / "b.db", tmp_path / "two", source)
    assert head == other
    _equal(one, two)


def test_postgres_gives_the_same_bytes_as_sqlite(tmp_path: Path, postgres: str) -> None:
    source = write_rows(tmp_path / "rows", rows())
    one, head = _played(tmp_path / "a.db", tmp_path / "one", source)
    two, other = _played(postgres, tmp_path / "two", source)
    assert head == other
    _equal(one, two)
    with (
        AnnotationStore.open(postgres) as store,
        pytest.raises(Exception, match="append-only"),
        store.database.write() as db,
    ):
        db.execute(sa.text("update event set value = null"))
