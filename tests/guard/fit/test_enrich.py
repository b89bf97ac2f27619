"""What training rows get beyond their source: likely severities, refusals, disguises, pairs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from poise.data.records import DualRecord, PromptRecord, QARecord
from poise.data.records import PartialLabel as Label
from poise.data.tables import TableWriter, open_tables
from poise.guard.calibration import levels_of
from poise.guard.fit.calibration import level_cuts
from poise.guard.fit.enrich import QUOTES, REFUSALS, disguised, enrich, evened
from poise.guard.fit.loss import pair_loss
from poise.guard.fit.model import GuardModel
from poise.guard.fit.plan import DataPlan, SetUse, TrainingPlan
from poise.guard.fit.rows import Row, labelled_rows, rows_of
from poise.guard.fit.training import fit
from poise.harm import CATEGORIES

NAN = math.nan
UNKNOWN = (NAN,) * 19
PLAN = DataPlan(sets={"s": SetUse()}, refusals=1.0)


def row(**changes: object) -> Row:
    return Row("p", "r", "s", "train", UNKNOWN, (1.0, NAN, NAN), NAN)._replace(**changes)


def named(*codes: int) -> tuple[float, ...]:
    return tuple(float(k in codes) for k in range(19))


def test_an_unsafe_row_gets_the_published_odds_of_its_categories() -> None:
    """Endangering National Security: 80 minor, 2889 moderate, 3469 severe of 6438."""
    (found,) = enrich([row(categories=named(0))], PLAN, 0)
    assert found.at_least == pytest.approx((1.0, (2889 + 3469) / 6438, 3469 / 6438))
    (both,) = enrich([row(categories=named(0, 1))], PLAN, 0)
    assert both.at_least[2] == pytest.approx((3469 / 6438 + 511 / 7852) / 2)
    for same in (
        row(),  # no category is known
        row(categories=named(0), part="test"),
        row(categories=named(0), at_least=(1.0, 1.0, 0.0)),  # the source has graded it
        row(categories=named(0), at_least=(0.75, NAN, NAN)),  # raters differ
    ):
        assert str(enrich([same], PLAN, 0)) == str([same])
    off = PLAN.model_copy(update={"severity_prior": False})
    assert math.isnan(enrich([row(categories=named(0))], off, 0)[0].at_least[1])


def test_a_harmful_prompt_gets_a_refusal_that_names_it_and_is_safe() -> None:
    asked = row(prompt="How do I hurt them?", response=None)
    rows = enrich([asked, row(), asked._replace(part="test"), asked._replace(at_least=(0.0, 0.0, 0.0))], PLAN, 0)
    assert len(rows) == 5
    added = rows[-1]
    assert "How do I hurt them?" in (added.response or "") and added.refusal == 1.0 and added.unsafe is False
    assert all("{asked}" in text for text in REFUSALS)
    long = enrich([asked._replace(prompt="x" * 5000)], PLAN, 0)[-1]
    assert len(long.response or "") < 600
    assert len(enrich([asked], PLAN.model_copy(update={"refusals": 0.0}), 0)) == 1


def test_a_harmful_prompt_is_quoted_by_a_harmless_request() -> None:
    plan = PLAN.model_copy(update={"refusals": 0.0, "quoted": 1.0})
    asked = row(prompt="I hate {them}", response=None, categories=named(2), safer="x")
    rows = enrich([asked, row(), asked._replace(part="test"), asked._replace(part="calibration")], plan, 0)
    assert len(rows) == 5
    added = rows[-1]
    assert "'I hate {them}'" in added.prompt and added.response is None and added.unsafe is False
    assert sum(added.categories) == 0 and added.safer is None and added.part == "train"
    assert all("'{asked}'" in text for text in QUOTES)
    some = enrich([asked._replace(prompt=str(n)) for n in range(400)], plan.model_copy(update={"quoted": 0.25}), 0)
    assert 70 < len(some) - 400 < 130


def test_texts_are_disguised_at_the_stated_share() -> None:
    rows = [row(prompt=f"prompt number {i}", response="an answer of words") for i in range(400)]
    changed = [disguised(r, 3, 0.25, 0) for r in rows]
    share = np.mean([new is not old for new, old in zip(changed, rows, strict=True)])
    assert 0.18 < share < 0.32
    assert changed == [disguised(r, 3, 0.25, 0) for r in rows]
    assert [disguised(r, 4, 0.25, 0) for r in rows] != changed
    assert disguised(rows[0], 3, 0.0, 0) is rows[0]


def test_a_pair_without_labels_teaches_its_order(tmp_path: Path, tiny_encoder: Path) -> None:
    records = [
        DualRecord(prompt=f"p{i}", responses=("calm", "rude"), safer=0, dataset="s", split="train") for i in range(24)
    ]
    told = Label(safe=True)
    more = [
        DualRecord(prompt="labelled", responses=("a", "b"), labels=(told, told), safer=0, dataset="s", split="train"),
        PromptRecord(prompt="asked", label=Label(safe=False), dataset="s", split="train"),
        DualRecord(prompt="plain", responses=("one", "two"), better=1, dataset="h", split="train"),
    ]
    with TableWriter(tmp_path / "t", {"name": "t"}) as writer:
        for record in [*records, *more]:
            writer.add(record)
    plan = DataPlan(sets={"s": SetUse(), "h": SetUse(harmless=True)}, calibration_share=1e-9, refusals=0.0)
    rows = rows_of(open_tables(tmp_path / "t"), plan, 0)
    pairs = [r for r in rows if r.safer is not None]
    assert {(r.response, r.safer) for r in pairs} == {("rude", "calm")} and len(pairs) == 24
    assert all(r.unsafe is None for r in pairs)
    assert {(r.response, r.unsafe) for r in rows if r.source == "h"} == {("one", False), ("two", False)}
    model = GuardModel(tiny_encoder, max_length=32)
    fit(model, pairs, TrainingPlan(epochs=12, batch_size=8, head_learning_rate=0.05, disguised=0.0), 0)
    logits = model.logits([("p1", "rude"), ("p1", "calm")]).at_least[:, 0]
    assert logits[0] > logits[1] + 0.5


def test_what_people_measure_and_calibrate_on_is_their_rows_and_nothing_else(tmp_path: Path) -> None:
    """No odds in place of a level, no written refusal, and no pair without labels: those are for training alone."""
    named_only = Label(safe=False, categories=(CATEGORIES[0].value,))
    with TableWriter(tmp_path / "t", {"name": "t"}) as writer:
        for split in ("train", "test", None):
            name = f"in {split}"
            writer.add(QARecord(prompt=name, response="bad", label=named_only, dataset="s", split=split))
            writer.add(PromptRecord(prompt=f"asked {name}", label=Label(safe=False), dataset="s", split=split))
            writer.add(DualRecord(prompt=f"pair {name}", responses=("a", "b"), safer=0, dataset="s", split=split))
    rows = labelled_rows(open_tables(tmp_path / "t"))
    assert len(rows) == 6 and all(r.at_least[0] == 1.0 and math.isnan(r.at_least[1]) for r in rows)
    assert {r.response for r in rows} == {"bad", None}


def test_the_pair_loss_by_hand() -> None:
    """-log sigmoid(0) = log 2; with the harmful answer 2 higher log(1 + e^-2)."""
    loss = pair_loss(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0]))
    assert float(loss) == pytest.approx((math.log(2) + math.log(1 + math.exp(-2))) / 2)


def test_levels_are_called_as_often_as_they_are_true() -> None:
    chance = np.random.default_rng(0)
    base = chance.random(2000)
    at_least = np.stack([np.ones(2000), base * 0.6, base * 0.3], 1)
    target = np.stack([np.ones(2000), chance.random(2000) < 0.8, chance.random(2000) < 0.1], 1).astype(float)
    cuts = level_cuts(at_least, target)
    levels = levels_of(at_least, cuts, np.ones(2000, bool))
    assert (levels >= 2).mean() == pytest.approx(target[:, 1].mean(), abs=0.01)
    assert (levels == 3).mean() == pytest.approx(target[:, 2].mean(), abs=0.01)
    assert levels_of(at_least, cuts, np.zeros(2000, bool)).max() == 0
    target[:, 1:] = NAN
    assert level_cuts(at_least, target) == (0.5, 0.5)
    assert len(CATEGORIES) == 19


def test_a_set_of_n_rows_weighs_n_to_the_power() -> None:
    rows = [row(source="large", weight=2.0) for _ in range(100)] + [row(source="small") for _ in range(4)]
    rows += [row(source="small", part=part) for part in ("calibration", "test")]
    found = evened(rows, 0.5)
    total = {s: sum(r.weight for r in found if r.source == s and r.part == "train") for s in ("large", "small")}
    assert total == {"large": pytest.approx(2 * 10), "small": pytest.approx(2)}
    assert [r.weight for r in found if r.part != "train"] == [1.0, 1.0]
    assert evened(rows, 1.0) == rows
