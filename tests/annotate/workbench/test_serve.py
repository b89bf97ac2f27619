"""The commands: an invitation that works, a server that says nothing secret, one clear line without the extra."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from poise.annotate.store import AnnotationStore
from poise.annotate.workbench import Settings, create_app
from poise.cli.main import main
from poise.errors import PoiseError
from poise.llm.budget import Price
from poise.llm.store import ReplyStore

from .conftest import PASSWORD, MakeSite

httpx2 = pytest.importorskip("httpx2", reason="httpx2 is not installed")
pytest.importorskip("uvicorn", reason="the extra serve is not installed")


def test_invite_and_serve(make_site: MakeSite, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_site().store.database.name
    assert main(["annotate", "invite", store, "--role", "admin"]) == 0
    link = capsys.readouterr().out.strip()
    assert re.fullmatch(r"/join#[\w-]{43}", link)
    words = [sys.executable, "-m", "poise", "annotate", "serve", store, "--port", "0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as child:
        assert child.stderr is not None
        log = ""
        try:
            while "running on" not in log:
                line = child.stderr.readline()
                assert line, log
                log += line
            url = re.findall(r"http://[\d.:]+", log)[-1]
            with httpx2.Client(base_url=url, follow_redirects=True) as client:
                page = client.get("/join")
                csrf = re.search(r'name="csrf" value="(\w+)"', page.text)
                assert csrf and "server" not in page.headers
                fields = {"invitation": link.split("#")[1], "name": "root", "csrf": csrf[1]}
                home = client.post("/join", data=fields | {"password": PASSWORD, "again": PASSWORD})
                assert home.status_code == 200 and "/people" in home.text
        finally:
            child.terminate()
            log += child.stderr.read()
    assert link.split("#")[1] not in log and PASSWORD not in log and "root" not in log and "Traceback" not in log


def test_what_models_cost_is_said_on_the_command_line(
    make_site: MakeSite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, stores = make_site().store.database.name, [tmp_path / "a.db", tmp_path / "b.db"]
    for path in stores:
        with ReplyStore(path):
            pass
    given: list[Settings] = []
    monkeypatch.setattr("poise.annotate.workbench.create_app", lambda _, settings: given.append(settings))
    monkeypatch.setattr("uvicorn.Server.run", lambda _: None)
    words = [word for path in stores for word in ("--replies", str(path))]
    words += ["--price", "llama3:8b=0.15:0.6", "--price", "org/x=y=0:2"]
    assert main(["annotate", "serve", store, *words]) == 0
    assert main(["annotate", "serve", store]) == 0
    assert given[0].replies == tuple(stores)
    assert given[0].prices == {"llama3:8b": Price(0.15, 0.6), "org/x=y": Price(0.0, 2.0)}
    assert given[1] == Settings()


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        (["judge=0.15"], "'judge=0.15' is no price"),
        (["judge=0,15:0,60"], "is no price"),
        (["judge=1:2:3"], "is no price"),
        (["judge=-1:2"], "is no price"),
        (["judge=nan:2"], "is no price"),
        (["judge"], "is no price"),
        (["=1:2"], "is no price"),
        (["judge=1:2", "judge=1:3"], "'judge' has two prices"),
        (["judge=1:2"], "prices without replies"),
    ],
)
def test_a_price_that_is_none_is_one_line(
    make_site: MakeSite, capsys: pytest.CaptureFixture[str], told: list[str], fault: str
) -> None:
    words = [word for one in told for word in ("--price", one)]
    assert main(["annotate", "serve", make_site().store.database.name, *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: --price: ") and fault in line


def test_replies_that_are_none_are_found_before_the_server_starts(
    make_site: MakeSite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = make_site().store.database.name
    assert main(["annotate", "serve", store, "--replies", str(tmp_path / "none.db")]) == 2
    assert "none.db: no store of replies" in capsys.readouterr().err


def test_a_store_of_the_first_version_is_brought_up(make_site: MakeSite) -> None:
    site = make_site()
    where = site.store.database.name
    with site.store.database.write() as db:
        for view in ("counted_judgement", "current_check"):
            db.exec_driver_sql(f"drop view {view}")
        db.exec_driver_sql("drop index event_checked")
        for column in ("revealed", "probe"):
            db.exec_driver_sql(f"alter table lease drop column {column}")
        later = (
            "batch_item",
            "batch",
            "gold",
            "probe",
            "turn",
            "showing",
            "blind_vote",
            "training_answer",
            "training_round",
        )
        for table in (*later, "exposure", "session", "invitation", "account"):
            db.exec_driver_sql(f"drop table {table}")
        db.exec_driver_sql("update alembic_version set version_num = '0001'")
    with pytest.raises(PoiseError, match="older version 0001"):
        AnnotationStore.open(where)
    AnnotationStore.create(where).close()
    with AnnotationStore.open(where) as opened, opened.database.read() as db:
        assert db.exec_driver_sql("select count(*) from account").scalar() == 0


@pytest.mark.parametrize("missing", ["starlette", "python_multipart"])
def test_without_the_extra_one_line_says_so(make_site: MakeSite, monkeypatch: pytest.MonkeyPatch, missing: str) -> None:
    store = make_site().store
    monkeypatch.delitem(sys.modules, "poise.annotate.workbench.app")
    for name in [name for name in sys.modules if name.split(".")[0] == missing]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(PoiseError, match=r"pip install -e '\.\[serve\]'"):
        create_app(store)


def test_the_package_itself_needs_no_web_library() -> None:
    code = "import sys; import poise.cli.main, poise.annotate.workbench.accounts, poise.annotate.workbench.tasks; "
    code += "print([name for name in ('starlette', 'uvicorn') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_pages_need_lies_in_the_package() -> None:
    package = Path(sys.modules["poise.annotate.workbench"].__file__ or "").parent
    pages = "".join(path.read_text(encoding="utf-8") for path in (package / "templates").glob("*.html"))
    for name in set(re.findall(r'/static/([\w.]+)"', pages)):
        assert (package / "static" / name).is_file()
