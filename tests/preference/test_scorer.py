"""One adapter with two heads, or two adapters; padded and packed; written out so that both are loaded as two roles."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from poise.errors import PoiseError
from poise.models.trunk import Trunk
from poise.preference.pairs import Example, Pair, PreferenceData, Step, planned_steps
from poise.preference.scorer import ROLES, SHARED, Scorer, size_of
from poise.preference.training import PreferenceTraining, score_examples, train_preference

MakeTrunk = Callable[..., Trunk]
SETTINGS = PreferenceTraining(epochs=2, prompts_per_step=3, learning_rate=1e-2, regularization=0.001, seed=0)


def toy(prompts: int = 6, *, labels_alone: bool = False) -> PreferenceData:
    """Two responses to each prompt; the first is better, the second unsafe; maybe a third with a label only."""
    g = torch.Generator().manual_seed(3)
    data = PreferenceData([], [], [], [])
    for at in range(prompts):
        prompt = torch.randint(10, 40, (4 + at,), generator=g).tolist()
        first = len(data.examples)
        for unsafe, length in ((False, 3), (True, 6), (True, 2))[: 3 if labels_alone else 2]:
            words = torch.randint(10, 40, (length,), generator=g).tolist()
            data.examples.append(Example(prompt, [*words, 2], unsafe, severity=int(unsafe), name=f"row {at}"))
        data.prompts.append([len(data.pairs)])
        data.pairs.append(Pair((first, first + 1), 0, 0, "boundary"))
        data.alone.append([first + 2] if labels_alone else [])
    return data


@pytest.fixture
def one(make_trunk: MakeTrunk) -> Trunk:
    return make_trunk(SHARED, heads=ROLES, shared_layers=2, rank=4)


@pytest.fixture
def two(make_trunk: MakeTrunk) -> Trunk:
    return make_trunk(*ROLES, heads=ROLES, shared_layers=2, rank=4)


def scores(trunk: Trunk, data: PreferenceData, max_tokens: int = 0) -> torch.Tensor:
    found = score_examples(trunk, data, max_tokens=max_tokens)
    return torch.stack([found[role] for role in ROLES])


@pytest.mark.parametrize("form", ["one", "two"])
def test_packed_scores_are_the_padded_ones(form: str, request: pytest.FixtureRequest) -> None:
    trunk, data = request.getfixturevalue(form), toy(labels_alone=True)
    train_preference(trunk, data, SETTINGS)
    torch.testing.assert_close(scores(trunk, data, 64), scores(trunk, data), atol=1e-4, rtol=1e-4)


def test_one_adapter_learns_both_losses_in_a_pass(one: Trunk) -> None:
    before = {name: tensor.clone() for name, tensor in one.state_of(SHARED).items()}
    history = train_preference(one, toy(12), SETTINGS._replace(epochs=12, max_tokens=256))
    assert any(not torch.equal(tensor, before[name]) for name, tensor in one.state_of(SHARED).items())
    for role in ROLES:
        assert history[role][-1] < history[role][0] - 0.2


def test_the_gradient_of_one_adapter_is_that_of_the_sum(one: Trunk) -> None:
    """Only the reward learns, only the cost, both: gradients of the first two add up to the third's."""
    data, gradients = toy(), []
    for better, safer in ((0, None), (None, 0), (0, 0)):
        some = PreferenceData(data.examples, [p._replace(better=better, safer=safer) for p in data.pairs], data.prompts)
        scorer = Scorer(one)
        found = scorer.scores(scorer.batches(some.examples), SHARED)
        loss = torch.zeros(())
        for pair in some.pairs:
            first, second = pair.rows
            if pair.better is not None:
                loss = loss + found["reward"][second] - found["reward"][first]
            if pair.safer is not None:
                loss = loss + found["cost"][first] - found["cost"][second]
        gradients.append(torch.autograd.grad(loss, scorer.parameters(SHARED), allow_unused=True))
    for only_reward, only_cost, both in zip(*gradients, strict=True):
        parts = [g for g in (only_reward, only_cost) if g is not None]
        torch.testing.assert_close(sum(parts), both, atol=1e-5, rtol=1e-4)


def test_written_out_one_adapter_is_two_roles(one: Trunk, two: Trunk) -> None:
    """What the engine loads gives the same scores, and comes back into one adapter."""
    data = toy()
    train_preference(one, data, SETTINGS)
    states = {role: {n: t.clone() for n, t in state.items()} for role, state in Scorer(one).states().items()}
    for role in ROLES:
        two.load_role(role, states[role])
    torch.testing.assert_close(scores(two, data), scores(one, data))
    with torch.no_grad():
        one.load_role(SHARED, {name: tensor * 0 for name, tensor in one.state_of(SHARED).items()})
    Scorer(one).load(states)
    torch.testing.assert_close(scores(two, data), scores(one, data))


def test_two_adapters_do_not_fit_into_one(one: Trunk, two: Trunk) -> None:
    with pytest.raises(PoiseError, match="an adapter each"):
        Scorer(one).load(Scorer(two).states())


def test_labels_alone_move_the_sign(two: Trunk) -> None:
    data = toy(labels_alone=True)
    data.pairs[:] = [pair._replace(better=None, safer=None) for pair in data.pairs]
    train_preference(two, data, SETTINGS._replace(epochs=15))
    assert scores(two, data)[1, 2::3].min() > 0, "the unsafe ones that were learnt from"


def test_steps_carry_labels_that_stand_alone() -> None:
    steps = planned_steps(toy(4, labels_alone=True), 2, 1, seed=0)
    assert sorted(row for step in steps for row in step.alone) == [2, 5, 8, 11]
    assert all(isinstance(step, Step) and len(step.pairs) == 2 for step in steps)


def test_packing_pads_under_5_percent(two: Trunk) -> None:
    slots, padding = size_of(Scorer(two, 512).batches(toy(60, labels_alone=True).examples))
    assert slots > 1000
    assert padding / slots < 0.05


def test_a_loss_that_is_not_finite_names_its_rows_and_moves_nothing(two: Trunk) -> None:
    data = toy(2)
    with torch.no_grad():
        two.heads["cost"].linear.bias.fill_(math.inf)
    before = {name: tensor.clone() for name, tensor in two.state_of("cost").items()}
    with pytest.raises(PoiseError, match=r"step 1 of 2.*loss of cost is (nan|inf).*row 0.*row 1") as caught:
        train_preference(two, data, SETTINGS)
    assert caught.value.exit_code == 4
    assert all(torch.equal(tensor, before[name]) for name, tensor in two.state_of("cost").items())
