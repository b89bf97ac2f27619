"""Regret against the bounds, on streams that were made to hurt and on random ones."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from poise.errors import PoiseError
from poise.guard.ensemble import Hedge, bandit_rate, horizon_rate
from poise.guard.ensemble.hedge import Floats

T, N = 400, 6
SLACK = 1e-9

streams = st.tuples(st.integers(1, 60), st.integers(1, 7)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=st.sampled_from([0.0, 0.25, 0.5, 1.0]) | st.floats(0, 1))
)


def run(hedge: Hedge, losses: Floats) -> float:
    """The loss of the mixture over all rounds."""
    return sum(hedge.update(row) for row in losses)


def regret(hedge: Hedge, losses: Floats) -> float:
    return run(hedge, losses) - float(losses.sum(0).min())


def bound(rate: float | str, experts: int, rounds: int) -> float:
    log_n = math.log(max(2, experts))
    if rate == "anytime":
        return 2 * math.sqrt(rounds * log_n / 2) + math.sqrt(log_n / 8)
    if rate == "adahedge":
        return math.sqrt(rounds * log_n) + 4 / 3 * log_n + 2
    assert isinstance(rate, float)
    return log_n / rate + rate * rounds / 8


def stream(kind: str, seed: int) -> Floats:
    draw = np.random.default_rng(seed)
    if kind == "uniform":
        return draw.random((T, N))
    if kind == "bernoulli":
        return (draw.random((T, N)) < np.linspace(0.3, 0.6, N)).astype(float)
    if kind == "flip":  # the best expert becomes the worst half way
        first = np.tile(np.linspace(0, 1, N), (T // 2, 1))
        return np.vstack([first, first[:, ::-1]])
    rows, hedge = [], Hedge(N, 0.2)  # the heaviest expert is always wrong
    for _ in range(T):
        row = np.zeros(N)
        row[int(hedge.weights().argmax())] = 1.0
        hedge.update(row)
        rows.append(row)
    return np.array(rows)


def test_weights_by_hand() -> None:
    # eta = ln 2: losses (0, 1) leave weights in the ratio 1 : 1/2
    hedge = Hedge(2, math.log(2))
    assert hedge.update(np.array([0.0, 1.0])) == 0.5
    assert hedge.weights() == pytest.approx([2 / 3, 1 / 3])
    # fixed share 1/2 of the same: (1/2)(1, 1/2) + (1/2)(3/4) = (7/8, 5/8) -> 7 : 5
    shared = Hedge(2, math.log(2), share=0.5)
    shared.update(np.array([0.0, 1.0]))
    assert shared.weights() == pytest.approx([7 / 12, 5 / 12])
    # a sleeper keeps its share: 1/3 of three, the two others share out 2/3 as 2 : 1
    three = Hedge(3, math.log(2))
    three.update(np.array([0.0, 1.0, math.nan]))
    assert three.weights() == pytest.approx([4 / 9, 2 / 9, 3 / 9])
    assert three.weights(np.array([True, False, True])) == pytest.approx([4 / 7, 0, 3 / 7])


def test_the_horizon_rate_gives_the_textbook_bound() -> None:
    assert bound(horizon_rate(N, T), N, T) == pytest.approx(math.sqrt(T * math.log(N) / 2))


@pytest.mark.parametrize("kind", ["uniform", "bernoulli", "flip", "heaviest wrong"])
@pytest.mark.parametrize("rate", [horizon_rate(N, T), "anytime", "adahedge"], ids=["horizon", "anytime", "adahedge"])
def test_regret_stays_below_the_bound(kind: str, rate: float | str) -> None:
    for seed in range(20 if kind in ("uniform", "bernoulli") else 1):
        assert regret(Hedge(N, rate), stream(kind, seed)) <= bound(rate, N, T)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(streams, st.floats(0.01, 4) | st.sampled_from(["anytime", "adahedge"]))
def test_regret_stays_below_the_bound_on_any_stream(losses: Floats, rate: float | str) -> None:
    rounds, experts = losses.shape
    assert regret(Hedge(experts, rate), losses) <= bound(rate, experts, rounds) + SLACK  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(streams, st.data())
def test_regret_against_switching_experts(losses: Floats, data: st.DataObject) -> None:
    rounds, experts = losses.shape
    path = data.draw(st.lists(st.integers(0, experts - 1), min_size=rounds, max_size=rounds))
    switches = sum(a != b for a, b in itertools.pairwise(path))
    eta, alpha = data.draw(st.floats(0.05, 2)), data.draw(st.floats(0.01, 0.5))
    told = (switches + 1) * math.log(experts) + switches * math.log(1 / alpha)
    told += (rounds - switches - 1) * math.log(1 / (1 - alpha))
    followed = sum(losses[t, i] for t, i in enumerate(path))
    assert run(Hedge(experts, eta, alpha), losses) - followed <= told / eta + eta * rounds / 8 + SLACK


@settings(max_examples=60, deadline=None)
@given(streams, st.data())
def test_regret_against_a_sleeper_while_it_is_awake(losses: Floats, data: st.DataObject) -> None:
    rounds, experts = losses.shape
    asleep = data.draw(arrays(bool, losses.shape))
    eta, hedge, total, awake = data.draw(st.floats(0.05, 2)), None, np.zeros(experts), np.zeros(experts)
    hedge = Hedge(experts, eta)
    for t in range(rounds):
        mean = hedge.update(np.where(asleep[t], math.nan, losses[t]))
        there = ~asleep[t]
        total[there] += mean - losses[t][there]
        awake += there
    assert (total <= math.log(experts) / eta + eta * awake / 8 + SLACK).all()


@settings(max_examples=60, deadline=None)
@given(streams, st.data())
def test_regret_with_delayed_losses(losses: Floats, data: st.DataObject) -> None:
    rounds, experts = losses.shape
    arrives = [t + data.draw(st.integers(0, 12)) for t in range(rounds)]
    eta, served, missing = data.draw(st.floats(0.05, 2)), 0.0, 0
    hedge = Hedge(experts, eta)
    for t in range(rounds):
        for s in (s for s in range(t) if arrives[s] == t - 1):
            hedge.update(losses[s])
        missing += sum(arrives[s] >= t for s in range(t))
        served += float(hedge.weights() @ losses[t])
    allowed = math.log(max(2, experts)) / eta + eta * (rounds + 2 * missing) / 8
    assert served - float(losses.sum(0).min()) <= allowed + SLACK


def test_after_a_flip_a_share_recovers_and_plain_hedge_does_not() -> None:
    losses, eta = stream("flip", 0), horizon_rate(N, T)
    plain, shared = Hedge(N, eta), Hedge(N, eta, share=2 / T)
    run(plain, losses[: T // 2 + 60]), run(shared, losses[: T // 2 + 60])
    assert shared.weights()[-1] > 0.5
    assert plain.weights()[-1] < 0.1


def test_bandit_estimates_keep_the_expected_regret_below_the_bound() -> None:
    gamma, rounds, experts = 0.1, 1500, 4
    eta = bandit_rate(experts, rounds, gamma)
    allowed = gamma * rounds + math.log(experts) / eta + eta * experts * rounds / (2 * (1 - gamma))
    found = []
    for seed in range(12):
        draw = np.random.default_rng(seed)
        losses = (draw.random((rounds, experts)) < [0.2, 0.5, 0.5, 0.6]).astype(float)
        hedge, suffered = Hedge(experts, eta), 0.0
        for row in losses:
            chances = (1 - gamma) * hedge.weights() + gamma / experts
            one = int(draw.choice(experts, p=chances))
            suffered += row[one]
            estimate = np.zeros(experts)
            estimate[one] = row[one] / chances[one]
            hedge.update_estimate(estimate)
        found.append(suffered - losses.sum(0).min())
        assert hedge.weights().argmax() == 0
    assert 0 < np.mean(found) <= allowed


def test_weights_live_long() -> None:
    hedge = Hedge(2, 1.0)
    for _ in range(5000):
        hedge.update(np.array([1.0, 0.0]))
    for _ in range(5010):
        hedge.update(np.array([0.0, 1.0]))
    assert hedge.weights()[0] > 0.99  # nothing was lost below the smallest float


@pytest.mark.parametrize("rate", [0.3, "anytime", "adahedge"])
def test_a_restart_changes_nothing(rate: float | str) -> None:
    losses = stream("uniform", 3)
    whole, first, second = Hedge(N, rate), Hedge(N, rate), Hedge(N, rate)  # type: ignore[arg-type]
    run(whole, losses)
    run(first, losses[:150])
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    run(second, losses[150:])
    assert second.weights().tolist() == whole.weights().tolist() and second.state_dict() == whole.state_dict()


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"experts": 0}, "0 experts"),
        ({"experts": 2, "rate": 0.0}, "rate 0.0"),
        ({"experts": 2, "rate": "fast"}, "rate 'fast'"),
        ({"experts": 2, "rate": math.nan}, "rate nan"),
        ({"experts": 2, "rate": 0.1, "share": 1.0}, "share 1.0"),
        ({"experts": 2, "rate": "anytime", "share": 0.1}, "share with rate"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object], says: str) -> None:
    with pytest.raises(PoiseError, match=says):
        Hedge(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("losses", [[0.5, 1.1], [-0.1, 0.5], [0.5], [math.inf, 0.0]])
def test_losses_that_are_none(losses: list[float]) -> None:
    with pytest.raises(PoiseError, match="losses"):
        Hedge(2).update(np.array(losses))


@pytest.mark.parametrize(
    "state", [{}, {"losses": [0.0], "gap": 0, "rounds": 1}, {"losses": "x", "gap": 0, "rounds": 1}]
)
def test_states_that_are_none(state: dict[str, object]) -> None:
    with pytest.raises(PoiseError):
        Hedge(2).load_state_dict(state)
