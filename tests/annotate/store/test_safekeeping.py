"""Pseudonyms, backup, damage to the file, and agreement straight from the store."""

from __future__ import annotations

import hashlib
import hmac
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from poise.annotate.agreement.from_store import read_store
from poise.annotate.agreement.reading import read_questions
from poise.annotate.agreement.report import report
from poise.annotate.store import AnnotationStore, OverlapPolicy, back_up, export_tables, import_tables
from poise.cli.main import main
from poise.data.records import JudgementRecord
from poise.data.tables import open_tables
from poise.errors import PoiseError

from .conftest import BAD, MILD, SAFE, Make, qa_rows, write_rows
from .script import play, rows

KEY = b"0123456789abcdef0123456789abcdef"


def _raters(folder: Path) -> list[tuple[str, str]]:
    records = open_tables(folder)["judgements"].records()
    found = {(r.rater_kind, r.rater) for r in records if isinstance(r, JudgementRecord)}
    return sorted(found)


def test_people_leave_under_pseudonyms(make: Make, tmp_path: Path) -> None:
    bench = make(qa_rows(2))
    bench.store.judge(bench.model, 1, {"label": SAFE}, token="m")
    bench.answer(1, bench.take(1), {"label": SAFE})
    bench.answer(0, bench.take(0), {"label": BAD})
    export_tables(bench.store, tmp_path / "plain")
    assert _raters(tmp_path / "plain") == [("model", "judge"), ("person", "person-1"), ("person", "person-2")]
    export_tables(bench.store, tmp_path / "keyed", key=KEY)
    # RFC 2104: the first 16 hex digits of HMAC-SHA256(key, name)
    names = [f"p-{hmac.digest(KEY, name, hashlib.sha256).hex()[:16]}" for name in (b"ann", b"ben")]
    assert _raters(tmp_path / "keyed") == [("model", "judge"), *sorted(("person", name) for name in names)]
    text = b"".join(path.read_bytes() for path in (tmp_path / "keyed").rglob("*") if path.is_file())
    assert KEY not in text and b"ann" not in text.replace(b"annotat", b"")
    with AnnotationStore.create(tmp_path / "again.db", OverlapPolicy()) as store:  # a pseudonym stays one
        import_tables(store, open_tables(tmp_path / "keyed"))
        for key in (None, b"x" * 32):
            export_tables(store, tmp_path / "twice", key=key, replace=True)
            assert _raters(tmp_path / "twice") == _raters(tmp_path / "keyed")


def test_a_backup_of_a_store_in_use(make: Make, tmp_path: Path) -> None:
    bench = make(qa_rows(3))
    bench.answer(0, bench.take(0), {"label": SAFE})
    task = bench.take(1)
    checked = back_up(bench.store, tmp_path / "to" / "copy.db")
    bench.answer(1, task, {"label": SAFE})
    assert (checked.events, bench.store.verify().events) == (1, 2)
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["copy.db"]
    with AnnotationStore.open(tmp_path / "to" / "copy.db") as copy:
        assert copy.verify(checked.head).fault is None
    with pytest.raises(PoiseError, match="is there already"):
        back_up(bench.store, tmp_path / "to" / "copy.db")


def test_a_store_that_does_not_verify_is_not_copied(make: Make, tmp_path: Path) -> None:
    bench = make(qa_rows(3))
    bench.answer(0, bench.take(0), {"label": SAFE})
    with sqlite3.connect(bench.store.database.name) as db:
        db.execute("drop trigger event_no_update")
        db.execute("update event set at_ms = 0")
    assert main(["annotate", "backup", bench.store.database.name, str(tmp_path / "copy.db")]) == 4
    assert not list(tmp_path.glob("*copy.db*"))


def test_postgres_names_its_own_tool(postgres: str, tmp_path: Path) -> None:
    with AnnotationStore.create(postgres) as store, pytest.raises(PoiseError, match="pg_dump"):
        back_up(store, tmp_path / "copy.db")


@pytest.mark.parametrize(
    "url", ["postgresql://u:secret@h:port/db", "postgresql:/u:secret@h/db", "postgresql+psycopg:/h?password=secret"]
)
def test_a_url_that_is_none_is_no_path_and_keeps_its_password(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PoiseError, match="no URL of a database") as caught:
        AnnotationStore.create(url)
    assert "secret" not in str(caught.value) and caught.value.__suppress_context__
    assert main(["annotate", "agreement", url]) == 2
    told = capsys.readouterr().err
    assert "no URL of a database" in told and "secret" not in told
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_and_a_missing_row_show(make: Make) -> None:
    bench = make(qa_rows(200))
    path = Path(bench.store.database.name)
    bench.store.close()
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("insert into hint values (99999, 'S1')")
    assert "names a row of item that is not there" in str(bench.store.verify().fault)
    bench.store.close()
    db.execute("delete from hint")
    page = db.execute("select rootpage from sqlite_schema where name = 'task_queue'").fetchone()[0]
    size = db.execute("pragma page_size").fetchone()[0]
    assert db.execute("pragma wal_checkpoint(truncate)").fetchone()[0] == 0
    db.close()
    with path.open("r+b") as file:  # two keys of an index change places; no event and no text was touched
        file.seek((page - 1) * size)
        raw = bytearray(file.read(size))
        start = 12 if raw[0] == 2 else 8
        raw[start : start + 4] = raw[start + 2 : start + 4] + raw[start : start + 2]
        file.seek((page - 1) * size)
        file.write(raw)
    assert main(["annotate", "verify", str(path)]) == 4


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name != "per_rater"}


@pytest.mark.parametrize("where", ["sqlite", "postgres"])
def test_agreement_from_the_store_is_that_of_its_tables(
    where: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    place = tmp_path / "s.db" if where == "sqlite" else request.getfixturevalue("postgres")
    now = [1000.0]
    with AnnotationStore.create(place, OverlapPolicy(random_share=1.0, more=5), lambda: now[0]) as store:
        import_tables(store, open_tables(write_rows(tmp_path / "rows", rows())), singles=False)
        play(store, now, disputes=False)
        straight = report(read_store(store), replicates=20)
        first = read_store(store, round_="first")
        with store.database.read() as db:
            undone = db.exec_driver_sql("select count(*) from event where kind = 'undo'").scalar()
        export_tables(store, tmp_path / "out")
    through = report(read_questions(open_tables(tmp_path / "out")), replicates=20)
    assert undone
    one, two = (next(q for q in found["questions"] if q["question"] == "label") for found in (straight, through))
    assert (one["items"], one["judgements"]) == (two["items"], two["judgements"])
    assert [_plain(v) for v in one["variables"]] == [_plain(v) for v in two["variables"]]
    assert len(first["label"].ratings.item) == one["judgements"]
    choices, told = (next(q for q in found["questions"] if q["question"] == "single") for found in (straight, through))
    assert choices["judgements"] == told["judgements"] + told["unjudged"], "tables have no ties"
    values = [value["value"] for value in choices["variables"][0]["values"]]
    assert "tie" in values and set(values) <= {0, 1, "tie"}


def test_the_round_that_counts(make: Make) -> None:
    bench = make(qa_rows(1))
    made = bench.answer(0, bench.take(0), {"label": SAFE})
    bench.store.judge(bench.people[0], 1, {"label": MILD}, token="a")
    bench.store.judge(bench.people[0], 1, {"label": BAD}, token="b")
    bench.adjudicate(1, label=SAFE)

    def said(**more: Any) -> list[Any]:
        ratings = read_store(bench.store, **more)["label"].ratings
        return [ratings.values[code]["severity"] for code in ratings.value]

    assert (said(), said(round_="first")) == ([2], [0])
    bench.store.undo(bench.people[0], made["label"], token="c")
    assert (said(), said(round_="first")) == ([2], [1])
    with pytest.raises(PoiseError, match="no judgement of the raters wanted"):
        read_store(bench.store, rater=lambda who: who.kind == "model")


def test_the_command_takes_a_store(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    bench = make(qa_rows(3))
    for person in (0, 1):
        for _ in range(3):
            bench.answer(person, bench.take(person), {"label": SAFE if person else BAD})
    assert main(["annotate", "agreement", bench.store.database.name, "--replicates", "10"]) == 0
    assert "label: 3 items, 6 judgements of 2 raters" in capsys.readouterr().out
