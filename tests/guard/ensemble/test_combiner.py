"""Rounds whose truth comes late or never, draws with bandit feedback, restarts, and guards as experts."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from poise.errors import PoiseError
from poise.guard.ensemble import Combiner, EnsembleGuard, horizon_rate
from poise.guard.verdict import Item, Verdict, judged, unjudged
from poise.harm import Category

NAMES = ["good", "bad", "half"]


def advice(truth: bool, *, awake: bool = True) -> list[float | None]:
    return [0.9 if truth else 0.1, 0.1 if truth else 0.9, 0.5 if awake else None]


def test_the_mean_of_the_awake_is_served_and_late_truth_teaches() -> None:
    combiner = Combiner(NAMES, rate=1.0)
    assert combiner.decide("a", [0.9, 0.3, None]).probability == pytest.approx(0.6)
    combiner.decide("b", [0.0, 1.0, 0.5])
    assert combiner.pending == 2
    assert combiner.learn("b", unsafe=False) and combiner.learn("a", unsafe=True)  # out of order
    assert not combiner.learn("a", unsafe=True) and not combiner.learn("never", unsafe=True)
    weights = combiner.decide("c", [0.0, 0.0, 0.0]).weights
    assert weights[0] > weights[2] > weights[1]


def test_nobody_awake_serves_nothing_and_waits_for_nothing() -> None:
    combiner = Combiner(NAMES)
    decision = combiner.decide("a", [None, None, None])
    assert decision.probability is None and decision.weights.sum() == 0 and combiner.pending == 0


def test_the_oldest_waiting_rounds_are_forgotten() -> None:
    combiner = Combiner(["one"], most_pending=2)
    for name in "abc":
        combiner.decide(name, [0.5])
    assert not combiner.learn("a", unsafe=True) and combiner.learn("b", unsafe=True) and combiner.pending == 1


def test_bandit_feedback_finds_the_good_expert_though_it_sees_one_loss_a_round() -> None:
    combiner = Combiner(NAMES, rate=0.2, exploration=0.1, seed=4)
    for n in range(300):
        truth = n % 3 == 0
        decision = combiner.decide(str(n), advice(truth, awake=n % 5 != 0))
        assert decision.served in NAMES and decision.weights.sum() == pytest.approx(1)
        combiner.learn(str(n), unsafe=truth)
    last = combiner.decide("last", [1.0, 0.0, 0.0])
    assert last.weights[0] > 0.8 and (last.weights >= 0.1 / 3 - 1e-12).all()


def test_a_sleeper_gains_nothing_by_sleeping() -> None:
    combiner = Combiner(["mid", "sleeper"], rate=0.5, exploration=0.2, seed=1)
    for n in range(50):
        combiner.decide(str(n), [0.5, None])
        combiner.learn(str(n), unsafe=True)
    assert combiner.decide("x", [0.5, 0.5]).weights == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(
    "how", [{}, {"rate": 0.3, "share": 0.01}, {"rate": 0.3, "exploration": 0.2}], ids=["full", "share", "bandit"]
)
def test_a_restart_in_the_middle_changes_nothing(tmp_path: Path, how: dict[str, float]) -> None:
    def served(combiner: Combiner, rounds: range) -> list[float | None]:
        out = []
        for n in rounds:
            out.append(combiner.decide(str(n), advice(n % 2 == 0)).probability)
            if n >= 3:
                combiner.learn(str(n - 3), unsafe=n % 2 == 1)  # three rounds late
        return out

    whole, first, second = (Combiner(NAMES, **how) for _ in range(3))  # type: ignore[arg-type]
    expected = served(whole, range(60))
    before = served(first, range(31))
    first.save(tmp_path / "state.json")
    second.load(tmp_path / "state.json")
    assert before + served(second, range(31, 60)) == expected
    assert json.dumps(second.state_dict()) == json.dumps(whole.state_dict())
    assert [path.name for path in tmp_path.iterdir()] == ["state.json"]


def test_states_of_others_are_refused(tmp_path: Path) -> None:
    state = Combiner(NAMES).state_dict()
    for other in (Combiner(NAMES[:2]), Combiner(NAMES, rate=0.1), Combiner(NAMES, seed=1, rate=0.1, exploration=0.1)):
        with pytest.raises(PoiseError, match="a state of"):
            other.load_state_dict(state)
    broken = state | {"pending": {"a": [[0.5]]}}
    with pytest.raises(PoiseError, match="no state of an ensemble"):
        Combiner(NAMES).load_state_dict(broken)
    (tmp_path / "x.json").write_text("[]")
    for name in ("x.json", "y.json"):
        with pytest.raises(PoiseError, match="no state"):
            Combiner(NAMES).load(tmp_path / name)
    with pytest.raises(PoiseError, match="cannot be written"):
        Combiner(NAMES).save(tmp_path / "no" / "x.json")


def test_settings_and_advice_that_make_no_sense() -> None:
    with pytest.raises(PoiseError, match="named twice"):
        Combiner(["a", "a"])
    with pytest.raises(PoiseError, match="exploration"):
        Combiner(["a"], exploration=0.1)
    with pytest.raises(PoiseError, match="exploration"):
        Combiner(["a"], rate=0.1, exploration=1.0)
    for wrong in ([0.5], [0.5, 1.1, 0.0], [float("nan"), 0.0, 0.0]):
        with pytest.raises(PoiseError, match="advice"):
            Combiner(NAMES).decide("a", wrong)


class Fixed:
    """A guard that says the same of everything."""

    def __init__(self, name: str, verdict: Verdict) -> None:
        self.name, self.verdict = name, verdict

    def judge(self, items: Sequence[Item]) -> list[Verdict]:
        return [self.verdict] * len(items)


def test_guards_as_experts() -> None:
    loud = Fixed("loud", judged(True, taxonomy="llama-guard-3", named=["S10"], raw=("unsafe\nS10",)))
    calm = Fixed("calm", judged(False, probability=0.1, raw=("No",)))
    mute = Fixed("mute", unjudged("unparsable", "?"))
    ensemble = EnsembleGuard([loud, calm, mute], Combiner(["loud", "calm", "mute"], rate=1.0))
    item = ("How?", "So.")
    (verdict,) = ensemble.judge([item])
    assert verdict.unsafe and verdict.probability == pytest.approx(0.55)
    assert verdict.categories == {Category.S3} and verdict.raw == ("unsafe\nS10", "No", "?")
    weights = {"loud": "0.500000", "calm": "0.500000", "mute": "0.000000"}
    assert verdict.details == weights | {"unjudged mute": "unparsable"}
    assert ensemble.learn(item, unsafe=False) and not ensemble.learn(item, unsafe=False)
    (verdict,) = ensemble.judge([item])
    assert verdict.unsafe is False and verdict.probability is not None and verdict.categories == frozenset()
    assert ensemble.learn(("How?", None), unsafe=False) is False  # another item


def test_an_ensemble_of_the_unjudged_is_unjudged() -> None:
    mute = Fixed("mute", unjudged("dead: timeout"))
    (verdict,) = EnsembleGuard([mute]).judge([("Hi", None)])
    assert verdict.unsafe is None and verdict.reason == "every guard is unjudged"
    assert verdict.details == {"unjudged mute": "dead: timeout"}


def test_a_mean_that_no_expert_shares() -> None:
    low = Fixed("low", judged(False, probability=0.45))
    (verdict,) = EnsembleGuard([low], threshold=0.4).judge([("Hi", None)])
    assert verdict.unsafe and verdict.categories is None and verdict.probability == 0.45


def test_weights_of_other_guards_are_refused() -> None:
    with pytest.raises(PoiseError, match="weights of a for mute"):
        EnsembleGuard([Fixed("mute", unjudged("x"))], Combiner(["a"]))
    with pytest.raises(PoiseError, match="threshold"):
        EnsembleGuard([Fixed("mute", unjudged("x"))], threshold=1.5)


@pytest.mark.parametrize("seed", range(5))
def test_regret_of_served_probabilities_with_late_truth_stays_below_the_bound(seed: int) -> None:
    draw, rounds, delay = np.random.default_rng(seed), 300, 7
    truths = draw.random(rounds) < 0.4
    heard = np.clip(truths[:, None] + draw.normal(0, [0.3, 0.5, 0.9], (rounds, 3)), 0, 1)
    missing = sum(min(t, delay) for t in range(rounds))
    eta = horizon_rate(3, rounds, missing)
    combiner, suffered = Combiner(NAMES, rate=eta), 0.0
    for t in range(rounds):
        probability = combiner.decide(str(t), heard[t].tolist()).probability
        assert probability is not None
        suffered += abs(probability - truths[t])
        if t >= delay:
            combiner.learn(str(t - delay), unsafe=bool(truths[t - delay]))
    best = float(np.abs(heard - truths[:, None]).sum(0).min())
    assert suffered - best <= math.sqrt((rounds + 2 * missing) * math.log(3) / 2)
