"""A workbench over a small store, people who are signed in, and a clock that stands still."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

pytest.importorskip("starlette", reason="the extra serve is not installed")
pytest.importorskip("httpx2", reason="Starlette's test client needs httpx2")
from starlette.testclient import TestClient

from poise.annotate.store import AnnotationStore, OverlapPolicy, import_tables
from poise.annotate.workbench import Settings, create_app
from poise.annotate.workbench.accounts import Account, Accounts
from poise.data.records import DualRecord, Record
from poise.data.tables import TableWriter, open_tables

from ..store.conftest import SERVER, fresh_database  # noqa: TID252

PASSWORD = "a long password"
ONE = OverlapPolicy(people=1, more=1, random_share=0, lease_s=600)
JSON = {"accept": "application/json"}


def dual(prompt: str, first: str, second: str) -> DualRecord:
    """A pair without labels."""
    return DualRecord(prompt=prompt, responses=(first, second))


@dataclass
class Person:
    """Somebody's browser."""

    client: TestClient
    account: Account

    @property
    def csrf(self) -> str:
        """The token of the session's forms."""
        found = re.search(r'data-csrf="(\w+)"', self.client.get("/wellbeing").text)
        assert found
        return found[1]

    def post(self, path: str, script: bool = True, **fields: Any) -> Any:
        """Send a form of this session, as the script does or as a browser without scripts."""
        headers = JSON if script else {}
        return self.client.post(path, data={"csrf": self.csrf} | fields, headers=headers, follow_redirects=False)

    def take(self, stage: str = "qa") -> dict[str, str]:
        """The next task: the hidden fields of its page, with its lease and its text."""
        page = self.client.get(f"/next/{stage}")
        assert page.status_code == 200 and page.url.path.startswith("/task/"), page.text
        return fields_of(page.text) | {"lease": page.url.path.removeprefix("/task/"), "page": page.text}

    def submit(self, task: dict[str, str], script: bool = True, **fields: Any) -> Any:
        """Answer a task."""
        hidden = {name: task[name] for name in ("answer", "item", "stage")}
        return self.post(f"/task/{task['lease']}/submit", script, **hidden | fields)


def fields_of(page: str) -> dict[str, str]:
    """Name and value of the hidden fields of a page."""
    return dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page))


@dataclass
class Site:
    """A store with its workbench."""

    store: AnnotationStore
    settings: Settings
    now: list[float]
    accounts: Accounts = field(init=False)
    app: Any = field(init=False)

    def __post_init__(self) -> None:
        self.accounts = Accounts(self.store)
        self.app = create_app(self.store, self.settings)

    def browser(self) -> TestClient:
        """One that nobody is signed in with."""
        return TestClient(self.app, base_url="http://bench.test")

    def person(self, name: str = "ann", role: str = "annotator", warned: bool = True) -> Person:
        """A new account, signed in."""
        account = self.accounts.join(self.accounts.invite(role), name, PASSWORD)
        token = self.accounts.open_session(account, self.settings.session_hours)
        person = Person(self.browser(), account)
        person.client.cookies.set("poise_session", token)
        if warned:
            assert person.post("/before").status_code == 200
        return person

    def sql(self, query: str, **values: Any) -> Sequence[Any]:
        """Rows of a query."""
        with self.store.database.read() as db:
            return db.execute(sa.text(query), values).all()


MakeSite = Callable[..., Site]


@pytest.fixture
def make_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeSite]:
    """Makes a site: rows, overlap policy, settings; passwords are hashed quickly."""
    monkeypatch.setattr("poise.annotate.workbench.accounts._LOG_N", 4)
    made: list[AnnotationStore] = []

    def build(
        rows: Sequence[Record] | None = None, policy: OverlapPolicy = ONE, singles: bool = False, **settings: Any
    ) -> Site:
        now = [1_000_000.0]
        store = AnnotationStore.create(tmp_path / f"store{len(made)}.db", policy, clock=lambda: now[0])
        with TableWriter(tmp_path / f"rows{len(made)}", {"name": "test"}) as writer:
            for row in rows or [dual("How?", "One way.", "Another way.")]:
                writer.add(row)
        import_tables(store, open_tables(tmp_path / f"rows{len(made)}"), singles=singles)
        made.append(store)
        return Site(store, Settings(**settings), now)

    yield build
    for store in made:
        store.close()


@pytest.fixture(params=["sqlite", "postgres"] if SERVER else ["sqlite"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A place for a store, on each kind of database that there is."""
    if request.param == "sqlite":
        yield str(tmp_path / "store.db")
        return
    with fresh_database(str(SERVER)) as url:
        yield url
