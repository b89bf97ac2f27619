"""What a model suggests, on the page: shown first, shown after the blind answer, or not at all."""

from __future__ import annotations

import html
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from poise.annotate.store import AnnotationStore, JointPolicy, import_tables
from poise.annotate.workbench import Settings
from poise.data.records import DualRecord, QARecord, Record
from poise.data.rows import Rater
from poise.data.tables import TableWriter, open_tables

from .conftest import ONE, Site, fields_of

Open = Callable[..., Site]
BAD = {"categories": ["S6"], "severity": 2}
WORDS = "Severity 2 (moderate): S6 Violence"


@pytest.fixture
def open_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Makes a site whose items a model has judged."""
    monkeypatch.setattr("poise.annotate.workbench.accounts._LOG_N", 4)
    made: list[AnnotationStore] = []

    def build(mode: str, said: dict[str, Any], row: Record | None = None, control_share: float = 0.0) -> Site:
        joint = JointPolicy.model_validate({"mode": mode, "suggester": "judge", "control_share": control_share})
        store = AnnotationStore.create(tmp_path / "store.db", ONE, clock=lambda: 1e6, joint=joint)
        with TableWriter(tmp_path / "rows", {"name": "test"}) as writer:
            writer.add(row or QARecord(prompt="How?", response="By force."))
        import_tables(store, open_tables(tmp_path / "rows"), singles=True)
        model = store.rater(Rater(id="judge", kind="model", version="1"))
        items = {r.kind: r.id for r in Site(store, Settings(), [1e6]).sql("select id, kind from item")}
        for question, value in said.items():
            item = items["qa" if question == "label" else question]
            store.judge(model, item, {question: value}, token=f"model {question}")
        made.append(store)
        return Site(store, Settings(), [1e6])

    yield build
    for store in made:
        store.close()


def events(site: Site) -> list[tuple[Any, Any]]:
    """Value and what was shown, of people's answers."""
    rows = site.sql(
        "select value, shown from event e join rater r on r.id = e.rater where r.kind = 'person' order by seq"
    )
    return [(json.loads(row.value), json.loads(row.shown) if row.shown else None) for row in rows]


def suggestion(page: str) -> str:
    """The text of the suggestion on a page, "" where there is none."""
    _, found, rest = page.partition('<aside class="suggestion"')
    return html.unescape(rest.partition("</aside>")[0]) if found else ""


def test_a_suggestion_stands_on_the_page_and_is_recorded_by_the_server(open_site: Open) -> None:
    site = open_site("assist", {"label": BAD})
    ann = site.person()
    task = ann.take()
    assert WORDS in suggestion(task["page"]) and "It can be wrong" in suggestion(task["page"])
    assert " checked" not in task["page"], "nothing is filled in"
    assert ann.submit(task, severity="0", suggestion="{}", arm="control").status_code == 200
    ((value, shown),) = events(site)
    assert value["severity"] == 0 and shown["arm"] == "assist" and shown["suggestion"] == BAD


def test_the_control_arm_sees_none(open_site: Open) -> None:
    site = open_site("assist", {"label": BAD}, control_share=1.0)
    ann = site.person()
    task = ann.take()
    assert suggestion(task["page"]) == ""
    assert ann.submit(task, severity="0").status_code == 200
    ((value, shown),) = events(site)
    assert value["severity"] == 0 and shown["arm"] == "control" and "suggestion" not in shown


@pytest.mark.parametrize("script", [True, False])
def test_blind_first_then_revealed_then_the_last_word(open_site: Open, script: bool) -> None:
    site = open_site("blind_then_reveal", {"label": BAD})
    ann = site.person()
    task = ann.take()
    assert suggestion(task["page"]) == ""
    answered = ann.submit(task, script, severity="1", category="S2")
    path = answered.json()["go"] if script else answered.headers["location"]
    assert path.startswith("/task/") and not path.endswith(task["lease"])
    again = ann.submit(task, script, severity="3", category="S2")  # the old page once more: nothing new is stored
    assert (again.json()["go"] if script else again.headers["location"]) == path
    assert len(events(site)) == 1
    page = ann.client.get(path).text
    assert WORDS in suggestion(page) and "only if you are convinced" in suggestion(page)
    assert 'value="S2" data-key="b" data-name="Insulting Behavior" aria-describedby="g-S2" checked' in page
    revealed = fields_of(page) | {"lease": path.removeprefix("/task/"), "page": page}
    assert ann.submit(revealed, severity="2", category="S6").status_code == 200
    first, last = events(site)
    assert first[0] == {"categories": ["S2"], "severity": 1} and first[1]["arm"] == "blind"
    assert last[0] == BAD and last[1]["arm"] == "revealed" and last[1]["suggestion"] == BAD


@pytest.mark.parametrize(("choice", "strength", "step"), [(0, 2, "much more"), (1, 1, "slightly more")])
def test_a_choice_is_told_by_the_side_it_stands_on(open_site: Open, choice: int, strength: int, step: str) -> None:
    row = DualRecord(prompt="How?", responses=("one", "two"))
    site = open_site("assist", {"single": {"choice": choice, "strength": strength}}, row)
    page = site.person().take("single")["page"]
    left = page.index('aria-label="Left answer"')
    stands_left = page.find(">one<" if choice == 0 else ">two<", left) < page.index('aria-label="Right answer"')
    side = "left" if stands_left else "right"
    assert f"Overall: the {side} answer is {step} preferable" in suggestion(page)
