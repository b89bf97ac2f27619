"""People who are shown a model's suggestion come to differ, and a reviewer decides, in a browser with keys alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from poise.annotate.store import AnnotationStore, JointPolicy, OverlapPolicy, import_tables
from poise.annotate.workbench import Settings
from poise.data.records import QARecord
from poise.data.rows import Rater
from poise.data.tables import TableWriter, open_tables

from .conftest import Site
from .test_browser import (  # noqa: F401
    CHROMIUM,
    browser,
    faults,
    follow,
    new_page,
    next_after,
    press,
    read_warning,
    serve,
    sign_in,
)

pytestmark = pytest.mark.skipif(not Path(CHROMIUM).exists(), reason=f"no {CHROMIUM}")
SAFE = {"categories": [], "severity": 0}
BAD = {"categories": ["S6"], "severity": 2}
WORDS = "Severity 2 (moderate): S6 Violence"
TWO = OverlapPolicy(people=2, more=2, random_share=0, models_vote=False)


@pytest.fixture
def joint_site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Site]]:
    """A site with one item, of which the model says that it is harmful."""
    monkeypatch.setattr("poise.annotate.workbench.accounts._LOG_N", 4)
    made: list[AnnotationStore] = []

    def build(mode: str) -> Site:
        joint = JointPolicy.model_validate({"mode": mode, "suggester": "judge"})
        made.append(store := AnnotationStore.create(tmp_path / "store.db", TWO, joint=joint))
        with TableWriter(tmp_path / "rows", {"name": "test"}) as writer:
            writer.add(QARecord(prompt="How?", response="By force."))
        import_tables(store, open_tables(tmp_path / "rows"))
        model = store.rater(Rater(id="judge", kind="model", version="1"))
        store.judge(model, 1, {"label": BAD}, token="model")
        return Site(store, Settings(shield="off"), [0.0])

    yield build
    for store in made:
        store.close()


def label(browser: Any, url: str, name: str, mode: str, *keys: str) -> None:  # noqa: F811
    """Sign in and label the item; a blind answer is harmless, and `keys` give the last word."""
    page = new_page(browser)
    sign_in(page, url, name)
    follow(page, "Labels")
    read_warning(page)
    if mode == "blind_then_reveal":
        assert page.locator("aside.suggestion").count() == 0 and "judge" not in page.inner_text("main")
        next_after(page, ["0"])
        assert page.locator("[name=severity][value='0']:checked").count() == 1, "the blind answer is filled in"
    else:
        assert page.locator("[name=severity]:checked").count() == 0, "nothing is filled in"
    assert WORDS in page.inner_text("aside.suggestion") and faults(page) == []
    next_after(page, list(keys))
    assert "Nothing is waiting for you here" in page.inner_text("main")
    page.context.close()


@pytest.mark.parametrize("mode", ["assist", "blind_then_reveal"])
def test_a_conflict_under_suggestions_is_decided_with_keys_alone(
    joint_site: Callable[[str], Site],
    browser: Any,  # noqa: F811
    serve: Any,  # noqa: F811
    mode: str,
) -> None:
    site = joint_site(mode)
    for name, role in (("ann", "annotator"), ("ben", "annotator"), ("rev", "reviewer")):
        site.person(name, role)
    url = serve(site)
    label(browser, url, "ann", mode, "f", "2")
    label(browser, url, "ben", mode, "0")
    assert [row.state for row in site.sql("select state from task where stage = 'qa'")] == ["adjudicate"]

    page = new_page(browser)
    sign_in(page, url, "rev")
    follow(page, "Adjudication")
    page.wait_for_url("**/before*")
    page.wait_for_selector("button:focus")
    press(page, "Enter")
    page.wait_for_selector("input[name=severity]")
    told = page.inner_text("main")
    assert "Who said what" not in told and WORDS not in told and "person" not in told, "the vote is blind"
    press(page, "f", "1", "Enter")
    page.wait_for_selector("text=Who said what")
    table = page.inner_text("main").lower()
    assert table.count("person ") >= 2 and "model " in table and faults(page) == []
    buttons = page.locator("button[data-adopt]")
    said = [json.loads(buttons.nth(n).get_attribute("data-adopt")) for n in range(buttons.count())]
    assert sorted(json.dumps(one).count("S6") for one in said) == [0, 1, 1], "who was shown it is not who said it"
    letter = page.locator("button[data-adopt*='S6']").first.get_attribute("data-letter")
    press(page, f"Shift+{letter}", "w", "Enter")
    page.wait_for_selector("text=Nothing is disputed")

    ((value, reason, shown),) = site.sql("select value, reason, shown from event where kind = 'adjudicate'")
    assert (json.loads(value), reason) == (BAD, "slip")
    assert json.loads(shown)["page"]["blind"] == {"label": {"categories": ["S6"], "severity": 1}}
    (final,) = site.sql("select value, source, settled from final where question = 'label'")
    assert (json.loads(final.value), final.source, bool(final.settled)) == (BAD, "adjudicated", True)
    rows = site.sql(
        "select e.value, e.shown from event e join rater r on r.id = e.rater "
        "where r.kind = 'person' and e.kind = 'judge' order by e.seq"
    )
    answers = [(json.loads(row.value)["severity"], json.loads(row.shown)["arm"]) for row in rows]
    first = [(0, "blind")] if mode == "blind_then_reveal" else []
    last = "assist" if mode == "assist" else "revealed"
    assert answers == [*first, (2, last), *first, (0, last)]
    assert site.store.verify().fault is None
