"""Screenshots of adjudication, training, dashboard and guidelines, from a store that simulated raters have worked in.

    python benchmarks/workbench_lead_shots.py --out docs/images

The items are the project's own labelled examples; the raters err at random. Nothing is measured here.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from playwright.sync_api import sync_playwright
from workbench_shots import Shots, _session, serve

from poise.annotate.quality.golds import add_gold, set_policy
from poise.annotate.quality.inspection import draw
from poise.annotate.store import AnnotationStore, OverlapPolicy, import_tables
from poise.annotate.workbench import Settings, create_app
from poise.annotate.workbench.accounts import Accounts
from poise.annotate.workbench.adjudication import Adjudication
from poise.data.corpus import latest
from poise.data.records import DualRecord, PartialLabel, QARecord
from poise.data.rows import Rater
from poise.data.seeds import load_seeds
from poise.data.tables import TableWriter, open_tables
from poise.harm import CATEGORIES, Category

PAIRS, GOLD, STEPS, DAY_S = 120, 60, 900, 86_400.0
DRAW = random.Random(3)
Label = dict[str, Any]


def make_store(folder: Path, clock: list[float]) -> tuple[AnnotationStore, dict[int, Label]]:
    """A store of pairs of examples with gold items among them, and the known label of each QA item."""
    seeds = load_seeds()
    labels, rows = latest(seeds.judgements, "label"), {row.id: row for row in seeds.qa}
    known: dict[tuple[str, str], Label] = {}
    with TableWriter(folder / "rows", {"name": "screens"}) as writer:
        for pair in DRAW.sample(seeds.pairs, PAIRS):
            both = rows[pair.qa_0], rows[pair.qa_1]
            writer.add(DualRecord(prompt=both[0].prompt, responses=(both[0].response, both[1].response)))
            known |= {(row.prompt, row.response): labels[row.id].value for row in both}
    store = AnnotationStore.create(folder / "store.db", OverlapPolicy(), clock=lambda: clock[0])
    import_tables(store, open_tables(folder / "rows"))
    with TableWriter(folder / "gold", {"name": "screens"}) as writer:
        for row in DRAW.sample([row for row in seeds.qa if (row.prompt, row.response) not in known], GOLD):
            value = known[row.prompt, row.response] = labels[row.id].value
            names = tuple(Category.parse(code).value for code in value["categories"])
            label = PartialLabel(safe=not names, categories=names, severity=value["severity"])
            writer.add(QARecord(prompt=row.prompt, response=row.response, label=label))
    add_gold(store, open_tables(folder / "gold"))
    set_policy(store, gold_rate=0.1)
    query = "select i.id, p.body, a.body from item i join text p on p.id = i.prompt join text a on a.id = i.response_0"
    with store.database.read() as db:
        items = db.execute(sa.text(f"{query} where i.kind = 'qa'")).all()
    return store, {item: known[json.loads(prompt), json.loads(answer)] for item, prompt, answer in items}


def noisy(label: Label, error: float) -> Label:
    """The label as somebody gives it who errs with this probability."""
    if DRAW.random() > error:
        return label
    if label["severity"] == 0:
        return {"categories": [DRAW.choice(CATEGORIES).code], "severity": 1}
    if DRAW.random() < 0.4:
        return {"categories": [], "severity": 0}
    return {"categories": label["categories"], "severity": max(1, min(3, label["severity"] + DRAW.choice([-1, 1])))}


def work(store: AnnotationStore, truth: dict[int, Label], clock: list[float]) -> None:
    """A model and five people judge for some days, the last two only single preferences; a reviewer decides some, and
    two inspect. People read one label in ten wrong alike."""
    accounts = Accounts(store)
    people = [accounts.join(accounts.invite("annotator"), f"person {n}", "a long password").rater for n in range(5)]
    model = store.rater(Rater(id="judge-7b", kind="model", version="rubric-2"))
    for item, label in truth.items():
        value = {"label": noisy(label, 0.2)}
        store.judge(model, item, value, token=f"model {item}", reason="The response helps with what the page names.")
    seen = {item: noisy(label, 1.0) if DRAW.random() < 0.1 else label for item, label in truth.items()}
    for step in range(STEPS):
        clock[0] += DRAW.random() * 1500
        single = step % 7 == 0
        task = store.next_task(people[3 + step % 2 if single else step % 3], ["single"] if single else ["qa", "pair"])
        if task is None:
            continue
        values = {
            question: noisy(seen[task.item], 0.1)
            if question == "label"
            else {"choice": DRAW.choice([0, 1]), "strength": DRAW.choice([1, 2])}
            for question in task.asks
        }
        took, rater = int(DRAW.lognormvariate(9.6, 0.5)), people[3 + step % 2 if single else step % 3]
        store.submit(rater, task.token, values, token=f"{step}", client_ms=took, reason="It reads as a threat.")
    reviewer, first, second = (
        accounts.join(accounts.invite("reviewer"), f"reviewer {n}", "a long password").rater for n in range(3)
    )
    decide(store, truth, reviewer, 4)
    draw(store, "first days", check=60, limit=0.2, measure="exact", until_ms=round((clock[0] - 4 * DAY_S) * 1000))
    inspect(store, truth, first, 999)
    decide(store, truth, reviewer, 4)
    draw(store, "screened by the judge", check=30, top=30, model="judge-7b", limit=0.1, measure="exact")
    inspect(store, truth, second, 52)
    for person in people[:3]:
        store.next_task(person, ["pair"])


def decide(store: AnnotationStore, truth: dict[int, Label], reviewer: int, leave: int) -> None:
    """A reviewer decides disputed labels, rightly, but for so many."""
    disputed = sa.text("select count(*) from task where stage = 'qa' and state = 'adjudicate'")
    while True:
        with store.database.read() as db:
            left = db.execute(disputed).scalar_one()
        if left <= leave:
            return
        task = store.next_task(reviewer, ["qa"], adjudicate=True)
        if task is None:
            return
        case, value = Adjudication(store, reviewer, task.token), {"label": truth[task.item]}
        case.vote(value)
        case.decide(value, code="guideline", note="", token=f"decided {task.token}")


def inspect(store: AnnotationStore, truth: dict[int, Label], inspector: int, most: int) -> None:
    """Somebody inspects labels of batches, rightly."""
    for _ in range(most):
        task = store.next_task(inspector, ["qa"], inspect=True)
        with store.database.read() as db:
            held = db.execute(sa.text("select probe from lease where rater = :r"), {"r": inspector}).scalar()
        if task is None or held != "inspect":
            return
        store.submit(inspector, task.token, {"label": truth[task.item]}, token=f"inspected {task.token}")


def take_all(store: AnnotationStore, url: str, out: Path) -> None:
    """Every screen."""
    accounts = Accounts(store)
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        shots = Shots(browser, url, out)
        pages = {}
        for role in ("annotator", "reviewer", "lead"):
            who = accounts.join(accounts.invite(role), f"new {role}", "a long password")
            pages[role] = shots.window(_session(accounts, who, warned=True))
        page = pages["annotator"]
        page.goto(f"{url}/training")
        page.keyboard.press("Enter")
        page.wait_for_selector("input[name=severity]")
        for key in ("q", "2", "Enter"):
            page.keyboard.press(key)
        page.wait_for_selector("#feedback")
        shots.take(page, "training")
        page = pages["reviewer"]
        page.set_viewport_size({"width": 1360, "height": 1180})
        shots.take(page, "adjudicate-blind", "/adjudicate", ("0",))
        page.keyboard.press("Enter")
        page.wait_for_selector("text=Who said what")
        shots.take(page, "adjudicate", keys=("w",))
        page = pages["lead"]
        shots.take(page, "guidelines", "/guidelines/f")
        page.goto(f"{url}/lead")
        page.wait_for_timeout(2000)
        page.set_viewport_size({"width": 1360, "height": 2010})
        shots.take(page, "lead", "/lead")
        for section in ("agreement", "raters"):
            page.locator(f"section[aria-labelledby={section}]").screenshot(path=out / f"workbench-{section}.png")
        browser.close()


def main() -> None:
    """Take them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        clock = [time.time() - 9 * DAY_S]
        store, truth = make_store(Path(folder), clock)
        with store:
            work(store, truth, clock)
            clock[0] = time.time()
            take_all(store, serve(create_app(store, Settings(shield="off"))), out)


if __name__ == "__main__":
    main()
