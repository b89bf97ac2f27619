"""The guard learns a toy that can be told apart, survives a kill, and comes back from disk as it was."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from poise.data import Judgement, Provenance, QARow
from poise.data.rows import label_value
from poise.errors import PoiseError
from poise.guard.moderator import Moderator
from poise.guard.training import GuardTraining, batches, train_guard, warm_linear
from poise.harm import SAFE, Label
from poise.models.seeding import seed_everything

pytestmark = pytest.mark.usefixtures("float32")

SETTINGS = GuardTraining(
    epochs=6, batch_size=8, learning_rate=3e-3, head_learning_rate=3e-2, weight_decay=0.01, category_weight=1.0, seed=0
)
KINDS = {
    "Have some tea and a biscuit.": SAFE,
    "You are silly.": Label.of(["S2"], 1),
    "Burn the house and fight them!": Label.of(["S6", "S12"], 3),
}
THINGS = ("garden", "bicycle", "winter", "letter", "river", "kitchen", "music", "mountain")


def row(name: str, prompt: str, response: str) -> QARow:
    return QARow(id=name, prompt_id="p", prompt=prompt, response=response, provenance=Provenance(source="invented"))


def toy() -> tuple[list[QARow], dict[str, Judgement]]:
    """24 rows of three kinds with their labels."""
    rows, judgements = [], {}
    for i, thing in enumerate(THINGS):
        for k, (response, label) in enumerate(KINDS.items()):
            name = f"{i}-{k}"
            rows.append(row(name, f"Tell me about the {thing}.", f"{response} " + f"The {thing}. " * (i % 3)))
            judgements[name] = Judgement(item=name, question="label", value=label_value(label), rater="r")
    return rows, judgements


def fresh(source: Path) -> Moderator:
    seed_everything(0)
    return Moderator(source, max_length=64)


def same_weights(first: Moderator, second: Moderator) -> bool:
    other = second.state_dict()
    return all(torch.equal(tensor, other[name]) for name, tensor in first.state_dict().items())


def test_learns_what_can_be_told_apart(tiny_encoder: Path) -> None:
    rows, judgements = toy()
    guard, steps = fresh(tiny_encoder), []
    settings = SETTINGS._replace(epochs=40, head_learning_rate=0.1)
    losses = train_guard(guard, rows, judgements, settings, on_step=lambda step, loss: steps.append((step, loss)))
    assert [loss for _, loss in steps] == losses and len(losses) == 120
    assert losses[-1] < 0.3 * losses[0]
    scores = guard.score(rows)
    right = [s is not None and s.label() == judgements[r.id].label() for s, r in zip(scores, rows, strict=True)]
    assert sum(right) >= 22
    assert all(s is not None and sum(s.severity) == pytest.approx(1, abs=1e-5) and s.helpful == 0 for s in scores)
    new = guard.score([row(str(k), "Tell me about the moon.", response) for k, response in enumerate(KINDS)])
    harm = [s.harm for s in new if s is not None]
    assert harm == sorted(harm) and harm[2] > harm[0] + 1


def test_scores_keep_their_order_whatever_the_batch(tiny_encoder: Path) -> None:
    rows, _ = toy()
    guard = fresh(tiny_encoder)
    torch.nn.init.normal_(guard.heads.severity.weight)
    seen: list[int] = []
    whole = guard.logits(rows, batch_size=5, on_rows=seen.append)
    assert seen == [5, 5, 5, 5, 4]
    alone = [guard.logits([r]) for r in rows]
    torch.testing.assert_close(whole.at_least, torch.cat([a.at_least for a in alone]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(whole.categories, torch.cat([a.categories for a in alone]), atol=1e-5, rtol=1e-5)
    assert guard.score([]) == []


def test_a_score_that_is_no_number_is_unjudged(tiny_encoder: Path) -> None:
    guard = fresh(tiny_encoder)
    torch.nn.init.constant_(guard.heads.categories.bias, math.nan)
    assert guard.score(toy()[0][:2]) == [None, None]


def test_saved_and_loaded_scores_the_same(tiny_encoder: Path, tmp_path: Path) -> None:
    rows, judgements = toy()
    guard = fresh(tiny_encoder)
    train_guard(guard, rows, judgements, SETTINGS._replace(epochs=1))
    guard.save(tmp_path / "guard")
    loaded = Moderator.load(tmp_path / "guard")
    assert loaded.encoder.max_length == 64
    assert loaded.score(rows) == guard.score(rows)


@pytest.mark.parametrize("missing", ["guard.json", "heads.safetensors"])
def test_a_folder_that_is_no_guard(tiny_encoder: Path, tmp_path: Path, missing: str) -> None:
    fresh(tiny_encoder).save(tmp_path / "guard")
    (tmp_path / "guard" / missing).unlink()
    with pytest.raises(PoiseError, match="holds no guard"):
        Moderator.load(tmp_path / "guard")


def test_resumed_equals_uninterrupted(tiny_encoder: Path, tmp_path: Path) -> None:
    rows, judgements = toy()
    whole = fresh(tiny_encoder)
    expected = train_guard(whole, rows, judgements, SETTINGS)

    def kill(step: int, loss: float) -> None:
        if step == 8:
            raise KeyboardInterrupt

    path = tmp_path / "guard.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train_guard(fresh(tiny_encoder), rows, judgements, SETTINGS, checkpoint=path, checkpoint_every=3, on_step=kill)
    resumed, steps = fresh(tiny_encoder), []
    torch.manual_seed(99)
    losses = train_guard(
        resumed, rows, judgements, SETTINGS, checkpoint=path, on_step=lambda step, loss: steps.append(step)
    )
    assert steps == list(range(6, 18))  # killed before the save of step 9
    assert losses == expected and same_weights(resumed, whole)


def test_rows_without_label_are_left_out(tiny_encoder: Path) -> None:
    rows, judgements = toy()
    extra = [row("none", "Why?", "Who knows."), row("unjudged", "Why?", "Nobody.")]
    unjudged = {"unjudged": Judgement(item="unjudged", question="label", value=None, rater="r")}
    with_extra, without = fresh(tiny_encoder), fresh(tiny_encoder)
    settings = SETTINGS._replace(epochs=1)
    losses = train_guard(with_extra, extra + rows, judgements | unjudged, settings)
    assert losses == train_guard(without, rows, judgements, settings)
    assert same_weights(with_extra, without)
    assert train_guard(without, extra, unjudged, settings) == []


def test_a_safe_flag_teaches_no_category(tiny_encoder: Path) -> None:
    """Unsafe by flag alone: the categories get no gradient, so their weights stay where they were (no decay)."""
    rows, _ = toy()
    flags = {r.id: Judgement(item=r.id, question="safe", value=False, rater="r") for r in rows}
    guard = fresh(tiny_encoder)
    before = guard.heads.categories.weight.clone()
    train_guard(guard, rows, flags, SETTINGS._replace(epochs=1, weight_decay=0.0))
    assert torch.equal(guard.heads.categories.weight, before)
    assert guard.heads.severity.weight.abs().max() > 0


def test_every_row_once_an_epoch_with_like_lengths_together() -> None:
    lengths = [7 * i % 50 for i in range(45)]
    plan = batches(lengths, SETTINGS._replace(epochs=2))
    per_epoch = len(plan) // 2
    for epoch in (plan[:per_epoch], plan[per_epoch:]):
        assert sorted(i for chunk in epoch for i in chunk) == list(range(45))
        assert sum(max(lengths[i] for i in c) - min(lengths[i] for i in c) for c in epoch) <= 50
    assert plan[:per_epoch] != plan[per_epoch:]
    assert batches(lengths, SETTINGS) != batches(lengths, SETTINGS._replace(seed=1))
    assert batches([], SETTINGS) == []


def test_the_rate_rises_for_a_tenth_and_falls_to_zero() -> None:
    shares = [warm_linear(step, 100) for step in range(101)]
    assert shares[0] == 0.1 and shares[9] == 1.0 and shares[100] == 0.0
    assert shares[:10] == sorted(shares[:10]) and shares[10:] == sorted(shares[10:], reverse=True)
    assert shares[55] == pytest.approx(0.5)
