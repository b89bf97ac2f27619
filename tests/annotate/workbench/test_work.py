"""Judging: what is stored, left and right, drafts, leases, double clicks, hostile text, breaks and budgets."""

from __future__ import annotations

import json
import re

from poise.annotate.store import OverlapPolicy
from poise.annotate.workbench.plain import PIECE, pieces, plain

from .conftest import MakeSite, dual

TWO = OverlapPolicy(people=2, more=2, random_share=0, lease_s=600)


def test_a_label_is_stored_and_what_breaks_the_rule_is_not(make_site: MakeSite) -> None:
    site = make_site()
    ann = site.person()
    task = ann.take()
    for fields in (
        {},
        {"severity": "2"},
        {"severity": "0", "category": "S1"},
        {"severity": "9", "category": "S1"},
        {"severity": "1", "category": "S20"},
    ):
        refused = ann.submit(task, **fields)
        assert refused.status_code == 400 and refused.json()["error"], fields
    assert site.sql("select 1 from event") == []
    stored = ann.submit(task, severity="2", category=["S3", "S1"], reason="a note", spent="1234")
    assert stored.status_code == 200 and stored.json()["items"] == 1
    (event,) = site.sql("select value, reason, client_ms from event")
    assert tuple(event) == ('{"categories":["S1","S3"],"severity":2}', "a note", 1234)


def test_without_scripts_the_form_works_too(make_site: MakeSite) -> None:
    ann = make_site().person()
    task = ann.take()
    answer = ann.submit(task, script=False, severity="0")
    assert (answer.status_code, answer.headers["location"]) == (303, "/next/qa")
    task = ann.take()
    answer = ann.post(f"/task/{task['lease']}/skip", script=False)
    assert answer.headers["location"] == "/next/qa"
    assert "Nothing is waiting" in ann.client.get("/next/qa").text


def test_a_double_click_stores_once_and_a_second_tab_is_told(make_site: MakeSite) -> None:
    site = make_site(policy=TWO)
    ann = site.person()
    task = ann.take()
    other_tab = ann.take()
    assert other_tab["lease"] == task["lease"] and other_tab["answer"] != task["answer"]
    assert ann.submit(task, severity="0").json() == ann.submit(task, severity="0").json()
    late = ann.submit(other_tab, severity="3", category="S1")
    assert late.status_code == 409 and "answered already" in late.json()["error"]
    assert len(site.sql("select 1 from event")) == 1 and site.sql("select 1 from draft") == []
    assert ann.client.get(f"/task/{task['lease']}").status_code == 404


def test_nobody_opens_or_answers_what_somebody_else_holds(make_site: MakeSite) -> None:
    site = make_site(policy=TWO)
    ann, ben = site.person("ann"), site.person("ben", "admin")
    task = ann.take()
    lease = task["lease"]
    assert ben.client.get(f"/task/{lease}").status_code == 404
    assert ben.client.get(f"/task/{lease}/text/p?at=0").status_code == 404
    assert ben.submit(task, severity="0").status_code == 409
    for what, code in (("draft", 409), ("renew", 409), ("opened", 404), ("skip", 404)):
        assert ben.post(f"/task/{lease}/{what}", item=task["item"], severity="0").status_code == code
    assert [site.sql(f"select 1 from {table}") for table in ("event", "draft", "skip", "exposure")] == [[], [], [], []]
    assert ben.post("/undo", answer=f"page:{task['answer']}").status_code == 400


def test_an_answer_of_one_person_cannot_be_taken_back_by_another(make_site: MakeSite) -> None:
    site = make_site(policy=TWO)
    ann, ben = site.person("ann"), site.person("ben")
    stored = ann.submit(ann.take(), severity="0").json()["stored"]
    assert ben.post("/undo", answer=stored).status_code == 400
    assert ann.post("/undo", answer=stored).json()["go"].startswith("/task/")
    assert ann.post("/undo", answer=stored).status_code == 200
    assert [row.kind for row in site.sql("select kind from event order by seq")] == ["judge", "undo"]


def test_a_lease_that_is_over_keeps_the_answer_as_a_draft(make_site: MakeSite) -> None:
    site = make_site()
    ann = site.person()
    task = ann.take()
    ann.post(f"/task/{task['lease']}/opened")
    site.now[0] += 601
    late = ann.submit(task, severity="2", category="S4", reason="careful")
    assert late.status_code == 409 and "kept as a draft" in late.json()["error"]
    again = ann.take()
    assert again["item"] == task["item"] and again["lease"] != task["lease"]
    assert re.search(r'value="S4"[^>]*checked', again["page"]) and 'value="careful"' in again["page"]
    assert ann.submit(again, severity="2", category="S4").status_code == 200


def test_a_draft_cannot_be_left_on_an_item_that_one_was_never_shown(make_site: MakeSite) -> None:
    site = make_site()
    ann = site.person()
    for item in ("1", "2", "999", "x", "9" * 30, ann.take()["item"]):
        answer = ann.post("/task/guess/draft", item=item, severity="0")
        assert answer.status_code == 409 and "draft" not in answer.json()["error"]
    assert site.sql("select 1 from draft") == []


def test_a_lease_is_renewed_with_the_one_loaded_ahead(make_site: MakeSite) -> None:
    site = make_site()
    ann = site.person()
    task = ann.take()
    ahead = ann.client.get(f"/ahead/qa?besides={task['lease']}")
    other = ahead.headers["x-lease"]
    assert other != task["lease"] and "<html" not in ahead.text and 'id="task"' in ahead.text
    site.now[0] += 500
    assert ann.post(f"/task/{task['lease']}/renew", besides=other).status_code == 200
    site.now[0] += 500
    assert ann.client.get(f"/task/{task['lease']}").status_code == 200
    assert ann.client.get(f"/task/{other}").status_code == 200
    assert ann.client.get(f"/ahead/qa?besides={task['lease']}&besides={other}").status_code == 204


def test_pairs_are_stored_by_what_was_left_and_right(make_site: MakeSite) -> None:
    rows = [dual(f"Question {n}", f"first {n}", f"second {n}") for n in range(12)]
    site = make_site(rows)
    ann, ben = site.person("ann"), site.person("ben")
    for _ in range(24):
        assert ann.submit(ann.take(), severity="0").status_code == 200
    lefts = []
    for person, place in ((ann, 0), (ben, 3)):
        for _ in range(6):
            task = person.take("pair")
            texts = re.findall(r"<bdi[^>]*>(first|second) \d+</bdi>", task["page"])
            assert sorted(texts) == ["first", "second"]
            steps = re.findall(r'name="better" value="([^"]+)"', task["page"])
            assert person.submit(task, better=steps[place], safer="tie").status_code == 200
            event = site.sql("select value, shown from event where question = 'better' order by seq")[-1]
            left = 0 if texts[0] == "first" else 1
            lefts.append(left)
            assert json.loads(event.shown) == {"page": {"left": left}}
            choice, strength = (left, 2) if place == 0 else (1 - left, 1)
            assert json.loads(event.value) == {"choice": choice, "strength": strength}
    assert {0, 1} == set(lefts)
    ties = site.sql("select value from event where question = 'safer'")
    assert {row.value for row in ties} == {'{"choice":"tie","strength":null}'}


def test_safer_is_shown_locked_and_refused_when_sent(make_site: MakeSite) -> None:
    site = make_site([dual("Q", "fine", "bad")])
    ann = site.person()
    for _ in range(2):
        task = ann.take()
        bad = ">bad<" in task["page"]
        ann.submit(task, severity="2" if bad else "0", **({"category": "S2"} if bad else {}))
    task = ann.take("pair")
    assert "exactly one response is safe" in task["page"] and 'name="safer"' not in task["page"]
    side = re.search(r"<strong>(Left|Right) answer</strong> is the safer", task["page"])
    texts = re.findall(r"<bdi[^>]*>(fine|bad)</bdi>", task["page"])
    assert side and texts[0 if side[1] == "Left" else 1] == "fine"
    assert ann.submit(task, better="0:1", safer="1:2").status_code == 200
    events = site.sql("select r.kind, e.question from event e join rater r on r.id = e.rater where question = 'safer'")
    assert [tuple(row) for row in events] == [("rule", "safer")]


def test_the_more_severe_answer_called_safer_needs_a_reason(make_site: MakeSite) -> None:
    site = make_site([dual("Q", "mild", "severe")])
    ann = site.person()
    for _ in range(2):
        task = ann.take()
        ann.submit(task, severity="3" if ">severe<" in task["page"] else "1", category="S2")
    task = ann.take("pair")
    texts = re.findall(r"<bdi[^>]*>(mild|severe)</bdi>", task["page"])
    steps = re.findall(r'name="safer" value="([^"]+)"', task["page"])
    step = steps[0] if texts[0] == "severe" else steps[4]
    refused = ann.submit(task, better="tie", safer=step)
    assert refused.status_code == 422 and refused.json()["need"] == "reason"
    assert "more severe" in ann.submit(task, script=False, better="tie", safer=step).text
    assert site.sql("select 1 from event where question = 'better'") == []
    assert ann.submit(task, better="tie", safer=step, reason="it is a quotation").status_code == 200
    assert [row.reason for row in site.sql("select reason from event where question = 'safer'")] == [
        "it is a quotation"
    ]


def test_hostile_text_is_shown_and_does_nothing(make_site: MakeSite) -> None:
    evil = "<script>alert(1)</script><img src=x onerror=alert(2)> {{ 7 * 7 }} \u202eabc\u202c \u200b\u200b x\u0000y"
    site = make_site([dual(evil, evil, "b")])
    page = site.person().take()["page"]
    assert "<script>alert" not in page and "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "<img src=x" not in page
    assert "{{ 7 * 7 }}" in page and "\u202e" not in page and "\u200b" not in page and "\x00" not in page
    assert ">U+202E<" in page and ">U+200B x2<" in page and ">U+0000<" in page and "right-to-left override" in page
    plain("\ud800z").encode("utf-8")
    assert ">U+D800<" in plain("\ud800z")


def test_text_comes_in_pieces_and_the_rest_on_demand(make_site: MakeSite) -> None:
    long = "".join(f"line {n}\n" for n in range(100_000)) + "THE END"
    site = make_site([dual("Q", long, "short")])
    ann = site.person()
    task = ann.take()
    assert len(long) > 1_000_000 and len(task["page"]) < 60_000 and "THE END" not in task["page"]
    found = re.search(r'data-more="([^"]+)" data-at="(\d+)"', task["page"])
    assert found
    rest = ann.client.get(f"{found[1]}?at={found[2]}").text
    shown = re.search(r'aria-label="Answer"><bdi dir="auto">(.*?)</bdi>', task["page"], re.DOTALL)
    assert shown and shown[1] + rest == long
    assert ann.client.get(f"{found[1]}?at=99999999").status_code == 404
    assert ann.client.get(f"{found[1][:-1]}7?at=0").status_code == 404


def test_pieces_put_together_are_the_text() -> None:
    for text in ("", "a" * (2 * PIECE + 1), "a\n" * PIECE, "\n" * PIECE + "b"):
        found, at = [], 0
        while at < len(text):
            part, at = pieces(text, at)
            found.append(part)
        assert "".join(found) == text and all(0 < len(part) <= PIECE for part in found)


def test_a_text_of_marks_alone_stays_light() -> None:
    assert len(plain("a\u200b" * 10_000)) < 400_000


def test_a_break_is_due_until_it_is_taken_and_the_day_ends(make_site: MakeSite) -> None:
    rows = [dual(f"Q{n}", "a", "b") for n in range(4)]
    site = make_site(rows, break_items=2, budget_items=5)
    ann = site.person()

    def answer() -> str | None:
        site.now[0] += 1
        went: str | None = ann.submit(ann.take(), severity="0").json().get("go")
        return went

    def rest() -> None:
        site.now[0] += 1
        assert ann.post("/break").status_code == 200

    assert [answer(), answer()] == [None, "/break"]
    for _ in range(2):
        assert ann.client.get("/next/qa").url.path == "/break"
        assert "Time for a break" in ann.client.get("/break").text
    rest()
    assert [answer(), answer()] == [None, "/break"]
    rest()
    assert answer() == "/break"
    assert "enough for today" in ann.client.get("/next/qa").text
    rest()
    assert ann.client.get("/next/qa").url.path == "/break"
    site.now[0] += 86_400
    later = site.person("ben")
    assert later.client.get("/next/qa").url.path.startswith("/task/")


def test_severe_items_have_a_budget_of_their_own(make_site: MakeSite) -> None:
    site = make_site([dual(f"Q{n}", "a", "b") for n in range(3)], budget_severe=2)
    ann = site.person()
    for severity, category in (("1", "S2"), ("3", "S2"), ("3", "S6")):
        answer = ann.submit(ann.take(), severity=severity, category=category)
    assert answer.json()["severe"] == 2 and answer.json()["go"] == "/break"
    assert [row.severe for row in site.sql("select severe from exposure order by item")] == [0, 1, 1]


def test_an_item_counts_once_and_only_when_its_text_was_shown(make_site: MakeSite) -> None:
    site = make_site(shield="always")
    ann = site.person()
    task = ann.take()
    assert 'data-covered="yes"' in task["page"] and site.sql("select 1 from exposure") == []
    for _ in range(2):
        ann.post(f"/task/{task['lease']}/opened")
    ann.submit(task, severity="0")
    assert len(site.sql("select 1 from exposure")) == 1


def answer_of(task: dict[str, str]) -> str:
    """The text of the answer on a page."""
    found = re.search(r'aria-label="Answer"><bdi dir="auto">(.*?)</bdi>', task["page"], re.DOTALL)
    assert found
    return found[1]


def test_covers_follow_the_hints_and_the_person(make_site: MakeSite) -> None:
    site = make_site(policy=TWO)
    ann, ben = site.person("ann"), site.person("ben")
    task = ann.take()
    assert 'data-covered="no"' in task["page"]
    ann.submit(task, severity="1", category="S6")
    covered = ben.take()
    assert answer_of(covered) == answer_of(task)
    assert 'data-covered="yes"' in covered["page"] and "It may concern: Violence" in covered["page"]
    ben.post("/wellbeing", shield="off", grey="1", theme="dark", keys="off")
    page = ben.take()["page"]
    assert (
        'data-covered="no"' in page
        and "It may concern" not in page
        and 'class="grey"' in page
        and 'data-theme="dark"' in page
    )
    assert 'data-keys="off"' in page
    assert ben.post("/wellbeing", shield="sometimes").status_code == 400


def test_opting_out_is_kept_and_honoured(make_site: MakeSite) -> None:
    site = make_site(policy=TWO)
    ann, ben = site.person("ann"), site.person("ben")
    task = ann.take()
    ann.submit(task, severity="1", category="S6")
    assert ben.post("/wellbeing", category=["S6", "S19"]).status_code == 200
    assert ben.post("/wellbeing", category="S99").status_code == 400
    assert answer_of(ben.take()) != answer_of(task)
    page = ben.client.get("/wellbeing").text
    assert re.findall(r'value="(S\d+)" checked', page) == ["S6", "S19"]


def test_the_warning_comes_first_in_every_session(make_site: MakeSite) -> None:
    site = make_site()
    ann = site.person(warned=False)
    asked = ann.client.get("/next/qa")
    assert asked.url.path == "/before" and "Before you begin" in asked.text
    answer = ann.post("/before", script=False, then="/next/qa")
    assert answer.headers["location"] == "/next/qa"
    assert ann.post("/before", script=False, then="//evil.test/").headers["location"] == "/"
    assert ann.client.get("/next/qa").url.path.startswith("/task/")


def test_home_counts_what_is_waiting(make_site: MakeSite) -> None:
    site = make_site([dual(f"Q{n}", "a", "b") for n in range(2)], singles=True)
    ann = site.person()
    assert re.findall(r'class="count">(\d+)', ann.client.get("/").text) == ["4", "0", "2"]
    ann.submit(ann.take(), severity="0")
    assert re.findall(r'class="count">(\d+)', ann.client.get("/").text) == ["3", "0", "1"]


def test_a_page_that_is_not_there(make_site: MakeSite) -> None:
    ann = make_site().person()
    for path in ("/next/none", "/ahead/none", "/nope", "/task/x"):
        answer = ann.client.get(path)
        assert answer.status_code == 404 and "poise" not in answer.text.split("<main")[1].lower()
    assert ann.client.get("/undo").status_code == 405
