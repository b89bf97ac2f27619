"""The pages of adjudication, training, dashboard and guidelines, asked over HTTP."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("starlette", reason="the workbench needs starlette: pip install -e '.[serve]'")

from poise.annotate.store import AnnotationStore, OverlapPolicy, import_tables
from poise.annotate.workbench import Settings
from poise.annotate.workbench.lead_pages import shade
from poise.annotate.workbench.training import Training, TrainingSettings, practice_items
from poise.data.records import DualRecord
from poise.data.rows import Rater, label_value
from poise.data.tables import TableWriter, open_tables
from poise.llm.budget import Price
from poise.llm.exchange import ChatRequest, Reply
from poise.llm.store import Exchange, ReplyStore

from .lead_bench import Seat, seat

SAFE = {"categories": [], "severity": 0}
BAD = {"categories": ["S1", "S6"], "severity": 2}
SCRIPT = "<script>alert('x')</script> & \u202eabc"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[AnnotationStore]:
    """A pair of which the first answer is disputed; its texts hold markup."""
    with TableWriter(tmp_path / "rows", {"name": "test"}) as writer:
        writer.add(DualRecord(prompt=SCRIPT, responses=("answer one", f"answer two {SCRIPT}")))
    policy = OverlapPolicy(random_share=0, more=2, models_vote=False)
    with AnnotationStore.create(tmp_path / "store.db", policy) as store:
        import_tables(store, open_tables(tmp_path / "rows"), singles=False)
        for name, labels in (("ann", [SAFE, SAFE]), ("ben", [BAD, SAFE])):
            rater = store.rater(Rater(id=name, kind="person"))
            for label in labels:
                task = store.next_task(rater, ["qa"])
                assert task is not None
                store.submit(rater, task.token, {"label": label}, token=f"{name}{task.item}")
        yield store


def hidden(page: str, name: str) -> str:
    found = re.search(rf'name="{name}" value="([^"]*)"', page)
    assert found, name
    return html.unescape(found[1])


def vote(reviewer: Seat, **more: Any) -> str:
    """Open the first item and vote on it; returns the page of the outcome."""
    page = reviewer.get("/adjudicate").text
    told = {"severity": "1", "category": ["S2"], "lease": hidden(page, "lease")} | more
    answer = reviewer.post("/adjudicate/vote", told)
    assert answer.status_code == 303, answer.text
    return reviewer.get("/adjudicate").text


def outcome(page: str, **more: Any) -> dict[str, Any]:
    told = {name: hidden(page, name) for name in ("lease", "token", "asks", "left")}
    return told | {"severity": "2", "category": ["S6"], "code": "gap", "note": "two readings"} | more


def test_the_others_are_shown_after_the_blind_vote_only(store: AnnotationStore) -> None:
    reviewer = seat(store, "reviewer")
    page = reviewer.get("/adjudicate").text
    assert "person A" not in page and "step 1 of 2" in page and "Violence" in page
    assert page.count("checked") == 0
    page = vote(reviewer)
    assert "person A" in page and "person B" in page and "Differs: " in page
    assert not {"ann", "ben"} & set(re.findall(r"\w+", page))
    assert page.count("checked") == 2, "the outcome starts from the blind vote"


def test_an_outcome_needs_a_reason_and_is_stored_once(store: AnnotationStore) -> None:
    reviewer = seat(store, "reviewer")
    page = vote(reviewer)
    refused = reviewer.post("/adjudicate/outcome", outcome(page, code=""))
    assert refused.status_code == 422 and "is no reason" in html.unescape(refused.text)
    assert "two readings" in refused.text, "what was written is not lost"
    for _ in range(2):
        assert reviewer.post("/adjudicate/outcome", outcome(page)).status_code == 303
    with store.database.read() as db:
        rows = db.exec_driver_sql("select value, reason, shown from event where kind = 'adjudicate'").all()
    assert [(json.loads(row[0]), row[1]) for row in rows] == [
        ({"categories": ["S6"], "severity": 2}, "gap: two readings")
    ]
    assert json.loads(rows[0][2])["page"] == {"blind": {"label": {"categories": ["S2"], "severity": 1}}}
    late = reviewer.post("/adjudicate/outcome", outcome(page, token="another"))
    assert late.status_code == 422 and "is over" in late.text
    assert "Nothing is disputed" in reviewer.get("/adjudicate?done=1").text


def test_contradictions_and_foreign_leases_are_refused(store: AnnotationStore) -> None:
    reviewer = seat(store, "reviewer")
    page = reviewer.get("/adjudicate").text
    lease = hidden(page, "lease")
    for told in (
        {"severity": "0", "category": ["S1"]},
        {"severity": "2", "category": []},
        {"severity": "2", "category": ["S99"]},
        {"severity": "7", "category": ["S1"]},
        {"category": ["S1"]},
    ):
        assert reviewer.post("/adjudicate/vote", told | {"lease": lease}).status_code == 422
    assert reviewer.post("/adjudicate/vote", {"severity": "0", "lease": "guessed"}).status_code == 422
    assert "step 1 of 2" in reviewer.get("/adjudicate").text


def test_a_pair_is_decided_by_sides_and_the_side_is_kept(store: AnnotationStore) -> None:
    for item in (1, 2):
        rater = store.rater(Rater(id="zoe", kind="person"))
        store.adjudicate(rater, item, {"label": BAD}, token=f"z{item}")
    for name, choice in (("ann", 0), ("ben", 1)):
        rater = store.rater(Rater(id=name, kind="person"))
        task = store.next_task(rater, ["pair"])
        assert task is not None
        store.submit(rater, task.token, {"better": choice, "safer": 0}, token=f"{name}pair")
    reviewer = seat(store, "reviewer")
    page = vote(reviewer, better="0:2")
    left = hidden(page, "left")
    assert hidden(page, "asks") == "better" and left in ("0", "1")
    first = page.index("answer one") < page.index("answer two")
    assert first == (left == "0"), "the texts stand on the sides that are recorded"
    assert reviewer.post("/adjudicate/outcome", outcome(page, better="1:1")).status_code == 303
    with store.database.read() as db:
        value, shown = db.exec_driver_sql("select value, shown from event order by seq desc limit 1").one()
    assert json.loads(value) == {"choice": 1, "strength": 1}
    assert json.loads(shown)["page"] == {"blind": {"better": {"choice": 0, "strength": 2}}, "left": int(left)}


def test_giving_back_and_skipping(store: AnnotationStore) -> None:
    reviewer = seat(store, "reviewer")
    lease = hidden(reviewer.get("/adjudicate").text, "lease")
    assert reviewer.post("/adjudicate/release", {"lease": lease, "skip": ""}).status_code == 303
    again = hidden(reviewer.get("/adjudicate").text, "lease")
    assert again != lease
    reviewer.post("/adjudicate/release", {"lease": again, "skip": "1"})
    assert "Nothing is disputed" in reviewer.get("/adjudicate").text


def test_texts_are_shown_as_text(store: AnnotationStore) -> None:
    page = seat(store, "reviewer").get("/adjudicate").text
    assert "<script>alert" not in page and "&lt;script&gt;alert" in page
    assert "\u202e" not in page and "right-to-left override" in page


def test_roles(store: AnnotationStore) -> None:
    annotator, reviewer, lead = (seat(store, role) for role in ("annotator", "reviewer", "lead"))
    assert annotator.get("/adjudicate").status_code == 403 and annotator.get("/lead").status_code == 403
    assert reviewer.get("/lead").status_code == 403 and reviewer.get("/adjudicate").status_code == 200
    assert lead.get("/lead").status_code == 200 and annotator.get("/guidelines").status_code == 200
    assert annotator.post("/lead/training", {"items": "5", "pass_mark": "50"}).status_code == 403
    assert Training(store).settings() == TrainingSettings()


def test_forms_without_the_token_of_the_session_change_nothing(store: AnnotationStore) -> None:
    reviewer, lead = seat(store, "reviewer"), seat(store, "lead")
    told = {"severity": "0", "lease": hidden(reviewer.get("/adjudicate").text, "lease")}
    assert reviewer.post("/adjudicate/vote", told, csrf=lead.csrf).status_code == 403
    assert lead.post("/lead/training", {"items": "9", "pass_mark": "1"}, csrf="").status_code == 403
    assert "step 1 of 2" in reviewer.get("/adjudicate").text and Training(store).settings() == TrainingSettings()


def test_training_from_begin_to_result(store: AnnotationStore) -> None:
    Training(store).set(TrainingSettings(items=4, pass_mark=0.9))
    annotator = seat(store, "annotator")
    assert "Begin" in annotator.get("/training").text
    annotator.post("/training/begin", {})
    for n in range(4):
        item = hidden(annotator.get("/training").text, "item")
        known = label_value(practice_items()[item].label)
        told = {"item": item, "severity": str(known["severity"]), "category": known["categories"]}
        wrong = (
            {"item": item, "severity": "0"} if known["severity"] else {"item": item, "severity": "3", "category": "S7"}
        )
        answer = annotator.post("/training/answer", wrong if n == 0 else told)
        assert answer.status_code == 303
        page = annotator.get(answer.headers["location"]).text
        assert ("Not quite" in page and "Differs: " in page) if n == 0 else '<h2 id="feedback">Right' in page
    page = annotator.get("/training").text
    assert "Not passed this time" in page and "Another round" in page
    with store.database.read() as db:
        assert db.exec_driver_sql("select count(*) from event").scalar() == 4


def test_bad_training_requests(store: AnnotationStore) -> None:
    annotator = seat(store, "annotator")
    assert annotator.post("/training/answer", {"item": "qa-none", "severity": "0"}).status_code == 422
    annotator.post("/training/begin", {})
    item = hidden(annotator.get("/training").text, "item")
    assert annotator.post("/training/answer", {"item": item}).status_code == 422
    assert annotator.post("/training/answer", {"item": item, "severity": "1"}).status_code == 422
    assert annotator.get("/training/feedback/qa-none").headers["location"] == "/training"


def test_the_dashboard(store: AnnotationStore) -> None:
    lead = seat(store, "lead")
    page = lead.get("/lead").text
    assert "Disputed items: 1" in page and "Stale pairs: 0" in page and "severity" in page
    assert page.count('class="lead-number heat-') == 57
    saved = lead.post("/lead/training", {"required": "1", "items": "7", "pass_mark": "80"})
    assert saved.status_code == 200 and Training(store).settings() == TrainingSettings(
        required=True, items=7, pass_mark=0.8
    )
    for wrong in (
        {"items": "2", "pass_mark": "80"},
        {"items": "x", "pass_mark": "80"},
        {"items": "7", "pass_mark": "nan"},
    ):
        assert lead.post("/lead/training", wrong).status_code == 422
    assert Training(store).settings().items == 7


def test_the_dashboard_shows_what_models_took(store: AnnotationStore, tmp_path: Path) -> None:
    with ReplyStore(tmp_path / "replies.db") as replies:
        request = ChatRequest(model="judge-7b", messages=(("user", "question"),))
        reply = Reply(text="answer", finish_reason="stop", prompt_tokens=1200, completion_tokens=30)
        replies.finish(request, Exchange(request.identity, "done", reply))
    settings = Settings(replies=(tmp_path / "replies.db",), prices={"judge-7b": Price(1000.0, 0.0)})
    page = seat(store, "lead", settings).get("/lead").text
    assert "judge-7b" in page and "1,200" in page and "1.20" in page


def test_shades_grow_with_counts() -> None:
    of = shade(1000)
    assert [of(n) for n in (0, 1, 1000)] == [0, 1, 5]
    assert [of(n) for n in range(0, 1001, 50)] == sorted(of(n) for n in range(0, 1001, 50))


def test_annotators_are_sent_to_training_first(store: AnnotationStore) -> None:
    annotator, reviewer = seat(store, "annotator"), seat(store, "reviewer")
    assert annotator.get("/next/qa").headers.get("location") != "/training"
    Training(store).set(TrainingSettings(required=True, items=3, pass_mark=0))
    assert annotator.get("/next/qa").headers["location"] == "/training"
    assert annotator.get("/ahead/qa").headers["location"] == "/training"
    assert reviewer.get("/next/qa").headers.get("location") != "/training"
    annotator.post("/training/begin", {})
    for _ in range(3):
        item = hidden(annotator.get("/training").text, "item")
        annotator.post("/training/answer", {"item": item, "severity": "0"})
    assert annotator.get("/next/qa").headers.get("location") != "/training"


def test_the_guidelines_hold_all_pages(store: AnnotationStore) -> None:
    page = seat(store, "annotator").get("/guidelines/f").text
    assert page.count("data-page") == 20 and page.count("data-open") == 1 and page.count("version 1.") == 19
    assert "S19 Animal Abuse" in page
    assert "data-open" not in seat(store, "annotator").get("/guidelines/zz").text
