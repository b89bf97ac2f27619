"""Hidden checks on the pages: they look, count, expire and are undone as tasks, and their answers become no data.

People have new pseudonyms in every run, so what they are given differs; there is enough of it that no draw matters.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from poise.annotate.agreement.from_store import read_store
from poise.annotate.quality.golds import add_gold, set_policy
from poise.annotate.quality.inspection import draw, inspections
from poise.annotate.quality.report import quality_report
from poise.annotate.store import OverlapPolicy, export_tables
from poise.annotate.workbench.measures import measure
from poise.data.records import DualRecord, PartialLabel, QARecord, Record
from poise.data.tables import TableWriter, open_tables

from .conftest import MakeSite, Person, Site, dual, fields_of

HARMLESS = PartialLabel(safe=True, categories=(), severity=0)
MILD = PartialLabel(safe=False, categories=("Violence",), severity=1)
SEVERE = PartialLabel(safe=False, categories=("Violence",), severity=3)
TWO = OverlapPolicy(people=2, more=2, random_share=0, lease_s=600)
TELLING = re.compile(r"gold|probe|repeat|hidden check|inspect", re.IGNORECASE)


def rows(count: int) -> list[Record]:
    return [QARecord(prompt=f"Question {n}", response=f"answer {n}") for n in range(count)]


def known(count: int, label: PartialLabel = HARMLESS) -> list[Record]:
    return [QARecord(prompt=f"Known {n}", response=f"sample {n}", label=label) for n in range(count)]


def add(site: Site, folder: Path, gold: Sequence[Record] = (), **policy: Any) -> None:
    """Add gold and set the policy."""
    if gold:
        with TableWriter(folder / "known", {"name": "test"}) as writer:
            for row in gold:
                writer.add(row)
        add_gold(site.store, open_tables(folder / "known"))
    set_policy(site.store, **policy)


def is_gold(task: dict[str, str]) -> bool:
    return "Known" in task["page"]


def take_until(person: Person, gold: bool, stage: str = "qa", **fields: Any) -> dict[str, str]:
    """Answer tasks until one is, or is not, a gold item."""
    while is_gold(task := person.take(stage)) != gold:
        assert person.submit(task, **(fields or {"severity": "0"})).status_code == 200
    return task


def bare(page: str, task: dict[str, str]) -> str:
    """A page without what differs on every page: tokens, references, the number and letters of its texts."""
    for value in (task["lease"], task["answer"], task["item"]):
        page = page.replace(value, "-")
    page = re.sub(r"Known|Question", "Q", re.sub(r"sample|answer (?=\d)", "A ", page))
    return re.sub(r"\s+", " ", re.sub(r"(Q|A)\s+\d+", r"\1", re.sub(r"\d+ read today", "read", page)))


def test_a_gold_item_is_served_as_a_task_and_its_answer_is_a_check(make_site: MakeSite, tmp_path: Path) -> None:
    site = make_site(rows(40))
    add(site, tmp_path, known(6), gold_rate=0.5)
    ann, kinds, told = site.person(), dict[bool, set[str]](), list[dict[str, Any]]()
    while True:
        page = ann.client.get("/next/qa")
        if not page.url.path.startswith("/task/"):
            break
        task = ann.take()
        kinds.setdefault(is_gold(task), set()).add(bare(task["page"], task))
        assert not TELLING.search(task["page"]) and len(task["lease"]) == len(task["item"]) == 22
        answer = ann.submit(task, severity="0")
        told.append(answer.json())
        assert set(answer.json()) == {"stored", "items", "severe"}
    assert kinds[True] == kinds[False] and len(kinds[True]) == 1, "the pages differ in their texts alone"
    assert [one["items"] for one in told] == list(range(1, len(told) + 1))
    counts = dict(site.sql("select kind, count(*) from event group by kind"))
    assert counts == {"judge": 40, "check": 6}
    assert site.sql("select count(*) from current_judgement")[0][0] == 40
    made = export_tables(site.store, tmp_path / "out")
    assert made["judgements"].rows == 40 and made["qa"].rows == 40
    prompts = [row.prompt for row in made["qa"].records() if isinstance(row, QARecord)]
    assert not any(prompt.startswith("Known") for prompt in prompts)
    assert sum(len(question.ratings.item) for question in read_store(site.store).values()) == 40
    (line,) = measure(site.store).raters
    assert line.answers == 40 and line.gold is not None and (line.gold.mean, line.gold.n) == (1.0, 6)


def test_a_gold_item_that_is_answered_wrongly_shows_on_the_dashboard(make_site: MakeSite, tmp_path: Path) -> None:
    site = make_site(rows(30), policy=TWO)
    add(site, tmp_path, known(4), gold_rate=0.5)
    for name, wrong in (("ann", {2, 3}), ("ben", {1, 2, 3})):
        person, answered = site.person(name), 0
        while person.client.get("/next/qa").url.path.startswith("/task/"):
            task = person.take()
            answered += is_gold(task)
            bad = is_gold(task) and answered - 1 in wrong
            told = {"severity": "1", "category": "S6"} if bad else {"severity": "0"}
            assert person.submit(task, **told).status_code == 200
        if name == "ann":
            (line,) = measure(site.store).raters
            assert line.gold is not None and (line.gold.mean, line.gold.n) == (0.5, 4) and line.answers == 30
            add(site, tmp_path, doubters=1, good_answers=1, good_accuracy=0.1)
    assert measure(site.store).doubted == len(quality_report(site.store)["gold"]["review"]) > 0
    lead = site.person("lea", "lead")
    page = ""
    for _ in range(100):
        if "Exact on gold" in (page := lead.client.get("/lead").text):
            break
    assert re.search(r"\d+ % <span class=\"lead-soft\">\[\d+, \d+\] of \d</span>", page) and "Good raters doubt" in page
    assert site.person("cem").client.get("/lead").status_code == 403


def test_repeats_and_swaps_come_as_tasks(make_site: MakeSite, tmp_path: Path) -> None:
    site = make_site([dual(f"Question {n}", f"first {n}", f"second {n}") for n in range(30)])
    add(site, tmp_path, repeat_rate=0.2, swap_rate=0.3, repeat_after=2)
    ann, seen, refs, count = site.person(), dict[str, list[str]](), set[str](), 0
    while ann.client.get("/next/qa").url.path.startswith("/task/"):
        task = ann.take()
        refs.add(task["item"])
        count += 1
        assert ann.submit(task, severity="0").json()["items"] == count == len(refs)
    while ann.client.get("/next/pair").url.path.startswith("/task/"):
        task = ann.take("pair")
        refs.add(task["item"])
        found = re.findall(r"<bdi[^>]*>(first|second) (\d+)</bdi>", task["page"])
        assert {side for side, _ in found} == {"first", "second"} and not TELLING.search(task["page"])
        seen.setdefault(found[0][1], []).append(found[0][0])
        count += 1
        steps = re.findall(r'name="better" value="([^"]+)"', task["page"])
        told = ann.submit(task, better=steps[0], safer="tie").json()
        assert told["items"] == count == len(refs), "what is read again counts again, under a reference of its own"
    twice = [sides for sides in seen.values() if len(sides) == 2]
    kinds = dict(site.sql("select kind, count(*) from probe group by kind"))
    assert kinds["swap"] > 3 and sum(first != second for first, second in twice) == kinds["swap"]
    swaps = quality_report(site.store)["habits"]["swaps"]
    assert [(row["question"], row["mean"], row["left_twice"]) for row in swaps] == [("better", 0.0, kinds["swap"])]
    sides = [json.loads(row[0])["page"]["left"] for row in site.sql("select shown from event where kind = 'check' "
             "and question = 'better'")]  # fmt: skip
    assert set(sides) == {0, 1}
    for item, n in site.sql("select item, count(*) from counted_judgement where question = 'label' group by item"):
        assert n == 1, item


def test_a_check_that_is_undone_comes_again_with_its_answer(make_site: MakeSite, tmp_path: Path) -> None:
    site = make_site(rows(40))
    add(site, tmp_path, known(9), gold_rate=0.5)
    ann = site.person()
    for gold in (True, False):
        task = take_until(ann, gold)
        stored = ann.submit(task, severity="2", category="S4").json()["stored"]
        went = ann.post("/undo", answer=stored).json()["go"]
        assert went.startswith("/task/")
        page = ann.client.get(went).text
        assert f'name="item" value="{task["item"]}"' in page and re.search(r'value="S4"[^>]*checked', page)
        again = ann.take()
        assert again["item"] == task["item"]
        assert ann.submit(again, severity="0").status_code == 200
    kinds = [row[0] for row in site.sql("select kind from event order by seq")]
    assert kinds.count("undo") == 2 and "check" in kinds and "judge" in kinds


def test_a_check_that_is_late_keeps_its_draft_and_a_skipped_one_is_gone(make_site: MakeSite, tmp_path: Path) -> None:
    site = make_site(rows(50))
    add(site, tmp_path, known(25), gold_rate=0.5)
    ann = site.person()
    told = []
    for gold in (True, False):
        task = take_until(ann, gold)
        ann.post(f"/task/{task['lease']}/opened")
        site.now[0] += 601
        late = ann.submit(task, severity="2", category="S4", reason="careful")
        told.append((late.status_code, late.json()))
        while (again := ann.take())["item"] != task["item"]:
            ann.submit(again, severity="0")
        assert 'value="careful"' in again["page"]
        assert ann.submit(again, severity="0").status_code == 200
        after = ann.submit(task, severity="2", category="S4")
        told.append((after.status_code, after.json()))
    assert told[:2] == told[2:] and "kept as a draft" in told[0][1]["error"] and "kept" not in told[1][1]["error"]
    task = take_until(ann, True)
    assert ann.post(f"/task/{task['lease']}/skip").status_code == 200
    while ann.client.get("/next/qa").url.path.startswith("/task/"):
        later = ann.take()
        assert later["item"] != task["item"]
        ann.submit(later, severity="0")


def test_a_late_page_of_the_first_answer_is_no_draft_of_the_repeat(make_site: MakeSite, tmp_path: Path) -> None:
    site = make_site(rows(30))
    add(site, tmp_path, repeat_rate=0.5, repeat_after=1)
    ann, firsts = site.person(), dict[str, dict[str, str]]()
    while True:
        task = ann.take()
        text = re.findall(r"<bdi[^>]*>(answer \d+)</bdi>", task["page"])[0]
        if text in firsts:
            break
        firsts[text] = task
        ann.submit(task, severity="0")
    first = firsts[text]
    late = ann.submit(first | {"answer": "b" * 22}, severity="3", category="S4")
    assert late.status_code == 409 and "kept" not in late.json()["error"] and site.sql("select 1 from draft") == []
    ann.post(f"/task/{task['lease']}/opened")
    site.now[0] += 601
    late = ann.submit(task, severity="3", category="S4")
    assert late.status_code == 409 and "kept as a draft" in late.json()["error"]
    assert ann.take()["item"] == task["item"] != first["item"], "a check that was given comes first"


def test_a_gold_pair_locks_and_asks_for_a_reason_as_any_pair(make_site: MakeSite, tmp_path: Path) -> None:
    site = make_site([dual(f"Question {n}", "mild", "severe") for n in range(24)])
    gold = [
        DualRecord(prompt="Known 1", responses=("mild", "severe"), labels=(MILD, SEVERE), better=0, safer=0),
        DualRecord(prompt="Known 2", responses=("fine", "severe"), labels=(HARMLESS, SEVERE), better=0),
    ]
    ann = site.person()
    while ann.client.get("/next/qa").url.path.startswith("/task/"):
        task = ann.take()
        ann.submit(task, severity="3" if ">severe<" in task["page"] else "1", category="S6")
    add(site, tmp_path, gold, gold_rate=0.5)
    seen = set()
    while ann.client.get("/next/pair").url.path.startswith("/task/"):
        task = ann.take("pair")
        locked = 'name="safer"' not in task["page"]
        seen.add((is_gold(task), locked))
        if locked:
            assert "Not asked: exactly one response is safe." in task["page"]
            assert ann.submit(task, better="tie").status_code == 200
            continue
        left = re.findall(r"<bdi[^>]*>(mild|severe)</bdi>", task["page"])[0]
        step = re.findall(r'name="safer" value="([^"]+)"', task["page"])[0 if left == "severe" else 4]
        refused = ann.submit(task, better="tie", safer=step)
        assert (refused.status_code, refused.json()["need"]) == (422, "reason")
        before = site.sql("select count(*) from exposure where severe")[0][0]
        assert ann.submit(task, better="tie", safer=step, reason="it is a quotation").status_code == 200
        assert site.sql("select count(*) from exposure where severe")[0][0] == before + 1
    assert seen == {(False, False), (True, False), (True, True)}


def test_home_does_not_count_to_the_item(make_site: MakeSite, tmp_path: Path) -> None:
    """After a check as many items are waiting as before, so an exact number would tell."""
    site = make_site(rows(25), policy=TWO)
    ann = site.person()
    assert re.findall(r'class="count">([^<]+)', ann.client.get("/").text) == ["25", "0", "0"]
    add(site, tmp_path, known(5), gold_rate=0.5)
    assert re.findall(r'class="count">([^<]+)', ann.client.get("/").text) == ["up to 30", "0", "0"]
    while ann.client.get("/next/qa").url.path.startswith("/task/"):
        ann.submit(ann.take(), severity="0")
    assert re.findall(r'class="count">([^<]+)', ann.client.get("/").text) == ["0", "0", "0"]


def test_an_item_loaded_ahead_may_be_a_check(make_site: MakeSite, tmp_path: Path) -> None:
    site = make_site(rows(40))
    add(site, tmp_path, known(8), gold_rate=0.5)
    ann = site.person()
    task, leases, found = ann.take(), set[str](), []
    for _ in range(25):
        ahead = ann.client.get(f"/ahead/qa?besides={task['lease']}")
        assert ahead.status_code == 200 and not TELLING.search(ahead.text)
        assert ann.submit(task, severity="0").status_code == 200
        task = fields_of(ahead.text) | {"lease": ahead.headers["x-lease"], "page": ahead.text}
        leases.add(task["lease"])
        found.append(is_gold(task))
    assert {True, False} == set(found) and len(leases) == 25


def test_a_reviewer_inspects_labels_as_tasks(make_site: MakeSite) -> None:
    """They go to reviewers alone; what one finds wrong is decided by another, who sees what the inspector said."""
    site = make_site(rows(7))
    ann, rev, other = site.person("ann"), site.person("rev", "reviewer"), site.person("other", "reviewer")
    plain = rev.take()
    rev.post(f"/task/{plain['lease']}/skip")
    for _ in range(4):
        ann.submit(ann.take(), severity="0")
    draw(site.store, "may", check=4, limit=0.4)
    counts = [re.findall(r'class="count">(\d+)<', who.client.get("/").text)[0] for who in (ann, rev)]
    assert counts == ["3", "6"], "three are open, and three of the four to inspect were not skipped before"
    task = rev.take()
    assert bare(task["page"], task) == bare(plain["page"], plain)
    answer = rev.submit(task, severity="2", category="S1")
    assert answer.status_code == 200
    (found,) = inspections(site.store)
    assert (found.inspected, found.errors) == (1, 1)
    assert "Nothing is disputed" in rev.client.get("/adjudicate").text, "not for the inspector"
    lease = fields_of(other.client.get("/adjudicate").text)["lease"]
    other.post("/adjudicate/vote", script=False, lease=lease, severity="2", category="S1")
    page = other.client.get("/adjudicate").text
    assert "inspector" in page and "person" in page
    board = site.person("lead", "lead").client.get("/lead").text
    assert "Inspection of batches" in board and "found wrong" in board and "inspect on" in board


def test_an_inspection_is_undone_and_runs_out_as_a_task(make_site: MakeSite) -> None:
    site = make_site(rows(2))
    ann, rev = site.person("ann"), site.person("rev", "reviewer")
    for _ in range(2):
        ann.submit(ann.take(), severity="0")
    draw(site.store, "may", check=2, limit=0.1)
    task = rev.take()
    answer = rev.submit(task, severity="2", category="S1").json()["stored"]
    again = rev.post("/undo", script=False, answer=answer)
    assert again.status_code in (302, 303) and inspections(site.store)[0].inspected == 0, again.text
    late = rev.take()
    assert late["item"] == task["item"] and "checked" in late["page"], "it comes again as a draft"
    site.now[0] += 700
    over = rev.submit(late, severity="1", category="S2")
    assert over.status_code == 409 and "kept as a draft" in over.text
    assert {rev.take()["item"]} == {task["item"]}
