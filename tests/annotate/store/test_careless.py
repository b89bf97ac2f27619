"""A simulated team with known carelessness: the report finds it again from gold, repeats, sides and times."""

from __future__ import annotations

import random
from typing import Any

import pytest

from poise.annotate.quality.golds import add_gold, set_policy
from poise.annotate.quality.report import quality_report
from poise.annotate.store import AnnotationStore, OverlapPolicy, import_tables
from poise.data.records import PartialLabel, QARecord, Record
from poise.data.rows import Rater
from poise.data.tables import open_tables
from poise.harm import CATEGORIES
from poise.metrics import wilson_interval

from .conftest import qa_rows, write_rows

pytestmark = pytest.mark.slow

SLIPS = {"ann": 0.02, "ben": 0.05, "cem": 0.45, "dea": 0.25, "eli": 0.1, "fay": 0.15, "gus": 0.35, "hal": 0.0}
"""Share of answers that are wrong, by person."""
HURRY = "cem"
CODES = ("S1", "S2", "S8")


def truth_of(prompt: str) -> dict[str, Any]:
    """The right label of item n: safe, or one category at a severity."""
    n = int(prompt.rsplit(maxsplit=1)[-1])
    return {"categories": [CODES[n % 3]], "severity": n % 3 + 1} if n % 2 else {"categories": [], "severity": 0}


def slip(label: dict[str, Any], dice: random.Random) -> dict[str, Any]:
    """A wrong label: safe is called harmful, harm is missed, or half the time its severity is off by one."""
    if not label["severity"]:
        return {"categories": ["S1"], "severity": 1}
    if dice.random() < 0.5:
        return {"categories": [], "severity": 0}
    return label | {"severity": 2 if label["severity"] != 2 else 3}


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Eight people each label 130 items with gold and repeats between."""
    folder = tmp_path_factory.mktemp("careless")
    names = {category.code: category.value for category in CATEGORIES}
    rows: list[Record] = []
    for n in range(100):
        known = truth_of(f"gold {n}")
        label = PartialLabel(
            safe=not known["severity"],
            categories=tuple(names[code] for code in known["categories"]),
            severity=known["severity"],
        )
        rows.append(QARecord(prompt=f"gold {n}", response="words " * 100, label=label))
    with AnnotationStore.create(folder / "s.db", OverlapPolicy(people=8, more=8, random_share=0)) as store:
        import_tables(store, open_tables(write_rows(folder / "rows", qa_rows(130))))
        add_gold(store, open_tables(write_rows(folder / "gold", rows)))
        set_policy(store, gold_rate=0.33, repeat_rate=0.12, repeat_after=20)
        for name, rate in SLIPS.items():
            person, dice, count = store.rater(Rater(id=name, kind="person")), random.Random(name), 0
            while (task := store.next_task(person)) is not None:
                right, count = truth_of(task.prompt), count + 1
                label_ = slip(right, dice) if dice.random() < rate else right
                words = sum(len(text.split()) for text in (task.prompt, *task.responses))
                pace = 30 if name == HURRY and dice.random() < 0.2 else 240
                took = round(words * pace * dice.uniform(0.8, 1.2))
                store.submit(person, task.token, {"label": label_}, token=f"{name}{count}", client_ms=took)
        return quality_report(store)


def test_the_report_recovers_who_is_careless(report: dict[str, Any]) -> None:
    """A 95 % interval misses one time in twenty, so one of eight may; at 99.9 % none does."""
    told, held = {one["name"]: one for one in report["raters"]}, 0
    for name, rate in SLIPS.items():
        gold = told[name]["gold"]
        accuracy, sure = gold["accuracy"], wilson_interval(gold["exact"], gold["accuracy"]["n"], 0.999)
        assert accuracy["n"] > 50
        held += accuracy["low"] <= 1 - rate <= accuracy["high"]
        assert sure.low <= 1 - rate <= sure.high, name
        (again,) = (
            one for one in report["habits"]["repeats"] if (one["rater"], one["question"]) == (name, "label: severity")
        )
        same = wilson_interval(round(again["mean"] * again["n"]), again["n"], 0.999)
        assert again["n"] > 12
        assert same.low <= (1 - rate) ** 2 + rate**2 and (1 - rate) ** 2 <= same.high, name
    assert held >= 7
    ranked = sorted(told, key=lambda name: told[name]["gold"]["accuracy"]["mean"])
    assert set(ranked[:2]) == {"cem", "gus"} and ranked[-1] == "hal"
    assert told["cem"]["gold"]["severity_off_by_one"] > 0
    assert told["cem"]["gold"]["with_half_points"] > told["cem"]["gold"]["accuracy"]["mean"]


def test_suggestions_are_for_the_careless_alone(report: dict[str, Any]) -> None:
    told = {one["name"]: [line.split(":")[0] for line in one["suggestions"]] for one in report["raters"]}
    assert "retrain" in told["cem"] and "look at times" in told["cem"] and "retrain" in told["gus"]
    assert told["ann"] == told["ben"] == told["eli"] == told["hal"] == []


def test_times_are_flagged_and_nothing_is_deleted(report: dict[str, Any]) -> None:
    times = {one["rater"]: one for one in report["habits"]["times"]}
    assert 0.1 < times["cem"]["by_floor"] / times["cem"]["answers"] < 0.3
    assert times["ann"]["by_floor"] == 0
    gold = next(one["gold"] for one in report["raters"] if one["name"] == "cem")
    again = next(one["n"] for one in report["habits"]["repeats"] if one["rater"] == "cem")
    assert times["cem"]["answers"] == 130 + gold["accuracy"]["n"] + gold["in_review"] + again


def test_what_the_team_finds_by_category(report: dict[str, Any]) -> None:
    found = report["gold"]["by_category"]
    assert set(found) == set(CODES)
    assert found["S2"]["found"]["mean"] < 1 and found["S2"]["named_rightly"]["mean"] == 1
    assert found["S1"]["named_rightly"]["mean"] < 1, "slips call safe answers S1"
