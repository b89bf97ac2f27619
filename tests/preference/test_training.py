"""Reward and cost adapters learn a word each, leave each other alone, and survive a kill."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from poise.models.trunk import Trunk, collate
from poise.preference.losses import cost_loss, reward_loss
from poise.preference.measures import measure
from poise.preference.pairs import Example, Pair, PreferenceData
from poise.preference.scorer import ROLES
from poise.preference.training import (
    PreferenceTraining,
    cost_step_loss,
    reward_step_loss,
    score_examples,
    train_preference,
)

MakeTrunk = Callable[..., Trunk]
SETTINGS = PreferenceTraining(epochs=4, prompts_per_step=4, learning_rate=2e-2, regularization=0.001, seed=0)
GOOD, HARM, END = 300, 400, 2  # a response with the word GOOD is better, one with HARM is unsafe


@pytest.fixture
def make(make_trunk: MakeTrunk) -> Callable[[], Trunk]:
    """A fresh trunk with both roles."""
    return lambda: make_trunk(*ROLES, heads=ROLES, shared_layers=1, rank=4)


def toy(prompts: int = 16, *, better: bool = True, safer: bool = True, seed: int = 0) -> PreferenceData:
    """Each prompt has a good and a bad safe response and a good unsafe one, in all three pairs."""
    g = torch.Generator().manual_seed(seed)
    examples: list[Example] = []
    pairs: list[Pair] = []
    by_prompt = []
    for at in range(prompts):
        prompt = torch.randint(10, 22, (3 + at % 5,), generator=g).tolist()
        first = len(examples)
        for words, unsafe in (([GOOD], False), ([], False), ([GOOD, HARM], True)):
            filler = torch.randint(10, 22, (1 + at % 3,), generator=g).tolist()
            examples.append(Example(prompt, [*filler, *words, END], unsafe))
        by_prompt.append(list(range(len(pairs), len(pairs) + 3)))
        for i, j, best, safe in ((0, 1, 0, None), (1, 2, 1, 0), (2, 0, None, 1)):
            chosen = (best if better else None, safe if safer else None)
            pairs.append(Pair((first + i, first + j), *chosen, "boundary" if unsafe else "none"))
    return PreferenceData(examples, pairs, by_prompt)


def copied(trunk: Trunk, role: str) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trunk.state_of(role).items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(t, second[name]) for name, t in first.items())


def accuracies(trunk: Trunk, data: PreferenceData) -> list[float]:
    """Of reward pairs, cost pairs and cost signs."""
    scores = {role: s.double().numpy() for role, s in score_examples(trunk, data).items()}
    found = measure(data, scores["reward"], scores["cost"], seed=0)
    shares = (found["reward"]["pair_accuracy"], found["cost"]["pair_accuracy"], found["cost"]["sign_accuracy"])
    return [share["mean"] for share in shares]


def test_both_models_learn_their_word(make: Callable[[], Trunk]) -> None:
    trunk, seen = make(), []
    learnt = toy(128)
    longer = SETTINGS._replace(prompts_per_step=8, learning_rate=1e-2)
    untrained = accuracies(trunk, learnt)
    history = train_preference(trunk, learnt, longer, on_step=lambda step, losses: seen.append((step, losses)))
    assert len(history["reward"]) == len(history["cost"]) == len(seen) == 64
    assert [losses["cost"] for _, losses in seen] == history["cost"]
    assert max(untrained) < 0.8
    assert min(accuracies(trunk, learnt)) > 0.9
    assert min(accuracies(trunk, toy(64, seed=7))) > 0.8
    costs = score_examples(trunk, learnt)["cost"]
    assert costs[2::3].mean() > 0 > costs[0::3].mean()


@pytest.mark.parametrize(("kind", "other"), [("reward", "cost"), ("cost", "reward")])
def test_steps_without_pairs_of_a_kind_change_nothing(make: Callable[[], Trunk], kind: str, other: str) -> None:
    trunk, both = make(), make()
    before = copied(trunk, kind)
    data = toy(better=kind != "reward", safer=kind != "cost")
    history = train_preference(trunk, data, SETTINGS)
    assert all(math.isnan(loss) for loss in history[kind]) and all(math.isfinite(loss) for loss in history[other])
    assert equal(trunk.state_of(kind), before)
    train_preference(both, toy(), SETTINGS)  # the other adapter learns the same with and without company
    assert equal(trunk.state_of(other), both.state_of(other))


def test_resumed_equals_uninterrupted(make: Callable[[], Trunk], tmp_path: Path) -> None:
    data = toy()
    whole = make()
    expected = train_preference(whole, data, SETTINGS)

    def kill(step: int, losses: dict[str, float]) -> None:
        if step == 7:
            raise KeyboardInterrupt

    path = tmp_path / "p.safetensors"
    with pytest.raises(KeyboardInterrupt):
        train_preference(make(), data, SETTINGS, checkpoint=path, checkpoint_every=3, on_step=kill)
    resumed, steps = make(), []
    history = train_preference(
        resumed, data, SETTINGS, checkpoint=path, checkpoint_every=3, on_step=lambda step, losses: steps.append(step)
    )
    assert steps == list(range(6, 16)) and history == expected
    assert all(equal(resumed.state_of(role), whole.state_of(role)) for role in ROLES)


def test_scores_come_in_the_order_of_the_examples(make: Callable[[], Trunk]) -> None:
    trunk, data, seen = make(), toy(5), []
    train_preference(trunk, data, SETTINGS._replace(epochs=1))
    scores = score_examples(trunk, data, batch_size=4, on_rows=seen.append)
    assert seen == [4, 4, 4, 3]
    with torch.no_grad():
        for i, e in enumerate(data.examples):
            tokens = collate([e.prompt], [e.response], trunk.device)
            for role in ROLES:
                alone = trunk.score(trunk.lower(tokens.ids), tokens.length, role)[0]
                torch.testing.assert_close(scores[role][i], alone, atol=1e-5, rtol=1e-5)


def test_chunks_do_not_change_the_step(make: Callable[[], Trunk], monkeypatch: pytest.MonkeyPatch) -> None:
    """Scored in pieces of 2 or all at once, the losses of a step are the same."""
    losses = []
    for size in (2, 1000):
        monkeypatch.setattr("poise.preference.scorer._CHUNK", size)
        losses.append(train_preference(make(), toy(4), SETTINGS._replace(epochs=2)))
    for role in ROLES:
        assert losses[0][role] == pytest.approx(losses[1][role], rel=1e-3)


def step_pairs(**change: Any) -> tuple[PreferenceData, Tensor]:
    """Three examples, the last unsafe, with scores 0.5, -1 and 2."""
    examples = [Example([1], [2], False), Example([1], [3], False), Example([1], [4], True)]
    pairs = [Pair((0, 1), 0, None, "none"), Pair((1, 2), 1, 0, "boundary"), Pair((2, 0), None, 1, "boundary")]
    return PreferenceData(examples, pairs, [[0, 1, 2]]), torch.tensor([0.5, -1.0, 2.0])


def test_reward_step_by_hand() -> None:
    """Judged pairs (0 over 1) and (2 over 1): scores (0.5, -1) and (2, -1)."""
    data, scores = step_pairs()
    got = reward_step_loss(scores, data.pairs, {0: 0, 1: 1, 2: 2}, SETTINGS)
    expected = -(math.log(1 / (1 + math.exp(-1.5))) + math.log(1 / (1 + math.exp(-3)))) / 2
    expected += 0.001 * ((0.25 + 1) + (4 + 1)) / 2
    assert got is not None and float(got.loss) == pytest.approx(expected, rel=1e-6)
    assert got == reward_loss(torch.tensor([0.5, 2.0]), torch.tensor([-1.0, -1.0]), 0.001)


def test_cost_step_by_hand() -> None:
    """Judged pairs (1 safer than 2) and (0 safer than 2): costs -1 < 2 and 0.5 < 2; example 0 has the wrong sign."""
    data, scores = step_pairs()
    shuffled = {0: 2, 1: 0, 2: 1}  # example -> place among the step's scores
    got = cost_step_loss(scores[[1, 2, 0]], data.pairs, shuffled, SETTINGS, data)
    minus, plus = torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 1.0])
    assert got == cost_loss(torch.tensor([-1.0, 0.5]), torch.tensor([2.0, 2.0]), minus, plus, 0.001)
    assert got is not None and float(got.pair_accuracy) == 1.0 and got.sign_accuracy is not None
    assert float(got.sign_accuracy) == 0.75


def test_no_judged_pair_no_loss() -> None:
    data, scores = step_pairs()
    unjudged = [pair._replace(better=None, safer=None) for pair in data.pairs]
    index = {0: 0, 1: 1, 2: 2}
    assert reward_step_loss(scores, unjudged, index, SETTINGS) is None
    assert cost_step_loss(scores, unjudged, index, SETTINGS, data) is None
