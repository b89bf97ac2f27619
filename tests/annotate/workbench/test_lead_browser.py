"""Adjudication, training, dashboard and guidelines in a real browser, with the keyboard alone, and what axe finds."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright", reason="playwright is not installed")
pytest.importorskip("axe_playwright_python", reason="axe-playwright is not installed")
pytest.importorskip("uvicorn", reason="uvicorn is not installed")

from poise.annotate.store import AnnotationStore, OverlapPolicy, import_tables
from poise.annotate.workbench.training import Training, TrainingSettings, practice_items
from poise.data.records import DualRecord, Record
from poise.data.rows import Rater
from poise.data.tables import TableWriter, open_tables
from poise.harm import Category

from .lead_bench import served

CHROMIUM = Path(os.environ.get("POISE_TEST_CHROMIUM", "/usr/bin/chromium"))
pytestmark = pytest.mark.skipif(
    not CHROMIUM.exists(), reason=f"no browser at {CHROMIUM}; name one with POISE_TEST_CHROMIUM"
)
SAFE = {"categories": [], "severity": 0}
BAD = {"categories": ["S1", "S6"], "severity": 2}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page in which nothing may fail and no mouse is used."""
    page = browser.new_context(viewport={"width": 1366, "height": 900}).new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    yield page
    page.context.close()
    assert faults == []


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AnnotationStore]:
    """A disputed label and a disputed pair."""
    rows: list[Record] = [
        DualRecord(prompt="first prompt", responses=("one", "two")),
        DualRecord(prompt="second prompt", responses=("three", "four " * 900)),
    ]
    with TableWriter(tmp_path / "rows", {"name": "test"}) as writer:
        for row in rows:
            writer.add(row)
    policy = OverlapPolicy(random_share=0, more=2, models_vote=False)
    with AnnotationStore.create(tmp_path / "store.db", policy) as store:
        import_tables(store, open_tables(tmp_path / "rows"), singles=False)
        zoe = store.rater(Rater(id="zoe", kind="person"))
        for item in items(store, "second prompt"):
            store.adjudicate(zoe, item, {"label": BAD}, token=f"z{item}")
        disputed = items(store, "first prompt")[0]
        for name, label, choice in (("ann", SAFE, 0), ("ben", BAD, 1)):
            rater = store.rater(Rater(id=name, kind="person"))
            while (task := store.next_task(rater, ["qa", "pair"])) is not None:
                values = {"label": label if task.item == disputed else SAFE}
                if task.stage == "pair":
                    values = {"better": {"choice": choice, "strength": 1}, "safer": {"choice": choice, "strength": 2}}
                store.submit(rater, task.token, values, token=f"{name}{task.item}", client_ms=9000)
        yield store


def items(store: AnnotationStore, prompt: str) -> list[int]:
    with store.database.read() as db:
        query = "select i.id from item i join text t on t.id = i.prompt where i.kind = 'qa' and t.body = ? order by 1"
        return [row[0] for row in db.exec_driver_sql(query, (json.dumps(prompt),))]


def no_serious_fault(page: Any) -> None:
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    assert [(one["id"], one["nodes"][0]["html"]) for one in found if one["impact"] in ("serious", "critical")] == []


def press(page: Any, keys: str) -> None:
    page.wait_for_load_state()
    for key in keys.split():
        page.keyboard.press(key)


def adjudications(store: AnnotationStore) -> list[tuple[Any, ...]]:
    with store.database.read() as db:
        rows = db.exec_driver_sql(
            "select e.item, e.question, e.value, e.reason, e.shown from event e join rater r on r.id = e.rater "
            "where e.kind = 'adjudicate' and r.name <> 'zoe' order by e.seq"
        ).all()
    return [(row[0], row[1], json.loads(row[2]), row[3], json.loads(row[4])["page"]) for row in rows]


def test_adjudications_with_the_keyboard_alone(store: AnnotationStore, page: Any) -> None:
    with served(store, "reviewer") as (address, cookie):
        page.context.add_cookies([cookie])
        page.goto(f"{address}/adjudicate")
        no_serious_fault(page)
        press(page, "Enter")
        assert "Choose 0 for no harm" in page.text_content("[data-says]"), "nothing is sent unanswered"
        press(page, "a f 2 0 b 1")
        assert page.text_content("[data-says]") == "Harmful: Insulting Behavior; minor."
        press(page, "Enter")
        page.wait_for_selector("text=Who said what")
        no_serious_fault(page)
        letter = page.get_attribute("button[data-adopt*='S6']", "data-letter")
        press(page, f"Shift+{letter} Enter")
        assert "Choose a reason" in page.text_content("[data-says]")
        press(page, "w w w t")
        page.keyboard.type("It says nothing of irony, aye")
        press(page, "Enter")
        page.wait_for_selector("text=More helpful")
        no_serious_fault(page)
        press(page, "1 8 Enter")
        page.wait_for_selector("text=Who said what")
        no_serious_fault(page)
        press(page, "0 w w w w Enter")
        page.wait_for_selector("text=Nothing is disputed")
    first, better, safer = adjudications(store)
    blind = {"label": {"categories": ["S2"], "severity": 1}}
    assert first[1:] == ("label", BAD, "gap: It says nothing of irony, aye", {"blind": blind})
    left = better[4]["left"]
    assert (better[1], better[2]) == ("better", {"choice": left, "strength": 2})
    assert (safer[1], safer[2], safer[3]) == ("safer", {"choice": 1 - left, "strength": 2}, "ambiguous")
    assert safer[4]["blind"] == {
        "better": {"choice": left, "strength": 2},
        "safer": {"choice": "tie", "strength": None},
    }
    assert store.verify().fault is None


def test_training_with_the_keyboard_alone(store: AnnotationStore, page: Any) -> None:
    Training(store).set(TrainingSettings(items=3, pass_mark=1.0))
    with served(store, "annotator") as (address, cookie):
        page.context.add_cookies([cookie])
        page.goto(f"{address}/training")
        press(page, "Enter")
        for _ in range(3):
            page.wait_for_selector("input[name=severity]")
            no_serious_fault(page)
            label = practice_items()[page.get_attribute("input[name=item]", "value")].label
            letters = [chr(ord("a") + Category.parse(one).index) for one in label.categories]
            press(page, " ".join([*letters, str(int(label.severity)), "Enter"]))
            page.wait_for_selector("#feedback")
            assert page.text_content("#feedback") == "Right"
            no_serious_fault(page)
            press(page, "Enter")
        page.wait_for_selector("text=Passed")
        no_serious_fault(page)


def test_the_dashboard_and_the_guidelines(store: AnnotationStore, page: Any) -> None:
    with served(store, "lead") as (address, cookie):
        page.context.add_cookies([cookie])
        page.goto(f"{address}/lead")
        no_serious_fault(page)
        page.goto(f"{address}/guidelines/f")
        no_serious_fault(page)
        assert page.evaluate("document.activeElement.id") == "f"
        press(page, "s /")
        page.keyboard.type("attackers or cruelty")
        assert page.text_content("[data-found]").endswith("of 20 pages")
        shown = page.locator("article:visible").count()
        assert 0 < shown < 20
        page.keyboard.type(" xyzzy")
        assert page.locator("article:visible").count() == 0 and page.is_visible("text=No page says that")
        press(page, "Escape c")
        assert page.locator("article:visible").count() == 20
        assert page.evaluate("document.activeElement.id") == "c"


def test_without_scripts_the_pages_are_plain_forms(store: AnnotationStore, browser: Any) -> None:
    with served(store, "reviewer") as (address, cookie):
        page = browser.new_context(java_script_enabled=False).new_page()
        page.context.add_cookies([cookie])
        page.goto(f"{address}/adjudicate")
        page.check("input[name=severity][value='0']")
        page.click("button.submit")
        assert page.is_visible("text=Who said what")
        page.close()
