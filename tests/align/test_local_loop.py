"""The local loop on a tiny model: numbers, resume, errors, and that the reward goes up."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from poise.align.algorithms.ppo_lagrangian import PPOLagrangian
from poise.align.engine.local import LocalLoop
from poise.align.engine.rollout import Responses, Rollout, ScoreScale, measure, roll_out
from poise.align.engine.settings import LoopSettings
from poise.align.multiplier import LogMultiplier
from poise.data.rows import uniform_seed
from poise.errors import PoiseError
from poise.models.generate import Request
from poise.models.trunk import Tokens, Trunk

CPU = torch.device("cpu")
ROLES = ("actor", "reward", "cost", "reward_critic", "cost_critic")
TRAINED = ("actor", "reward_critic", "cost_critic")
PROMPTS = [(f"p-{i}", [1, 20 + i, 30, *range(40, 40 + i)]) for i in range(5)]
SETTINGS = LoopSettings(
    steps=6,
    prompts_per_step=4,
    responses_per_prompt=1,
    max_new_tokens=8,
    temperature=1.0,
    actor_learning_rate=1e-2,
    critic_learning_rate=1e-2,
    updates_per_rollout=2,
    rows_per_batch=3,
    ratio_clip=0.2,
    value_clip=5.0,
    center_advantages=False,
    seed=3,
)
COLUMNS = {
    *("reward", "cost", "violation_rate", "kl", "response_tokens", "step", "multiplier"),
    *(f"loss_{role}" for role in TRAINED),
    *("seconds_rollout", "seconds_scoring", "seconds_update"),
}


@pytest.fixture
def make_loop(make_roles: Callable[[], Trunk]) -> Callable[..., LocalLoop]:
    """A fresh loop."""

    def make(prompts: Any = PROMPTS, kl: float = 0.02, threshold: float = 0.0, **changes: Any) -> LocalLoop:
        trunk = make_roles()
        with torch.no_grad():  # the loop copies the critics itself
            trunk.state_of("cost_critic")["head.linear.bias"].add_(9.0)
        multiplier = LogMultiplier(threshold=threshold, window=16)
        return LocalLoop(
            trunk, prompts, PPOLagrangian(kl=kl), multiplier, ScoreScale(0.1, 2.0, 0.5), SETTINGS._replace(**changes)
        )

    return make


Scores = Callable[[Tokens], Tensor]


def use_scores(monkeypatch: pytest.MonkeyPatch, reward: Scores, cost: Scores) -> None:
    """Hand-made scores in place of those of the reward and the cost model."""

    def measured(trunk: Trunk, responses: Responses, scale: ScoreScale, temperature: float, **roles: Any) -> Rollout:
        rollout, tokens = measure(trunk, responses, scale, temperature, **roles), responses.tokens
        return rollout._replace(experience=rollout.experience._replace(reward=reward(tokens), cost=cost(tokens)))

    monkeypatch.setattr("poise.align.engine.local.measure", measured)


def constant(value: float) -> Scores:
    """The same score for every response."""
    return lambda tokens: torch.full((len(tokens.ids),), value)


def timeless(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """History without the stopwatch."""
    return [{k: v for k, v in row.items() if not k.startswith("seconds")} for row in history]


def test_history_is_complete_and_finite(make_loop: Callable[..., LocalLoop], tmp_path: Path) -> None:
    loop, seen = make_loop(), []
    history = loop.run(checkpoint=tmp_path / "c.safetensors", checkpoint_every=10, on_step=seen.append)
    assert seen == history and [row["step"] for row in history] == list(range(6))
    assert all(set(row) == COLUMNS for row in history)
    assert all(math.isfinite(value) for row in history for value in row.values())
    assert all(0 <= row["violation_rate"] <= 1 and 1 <= row["response_tokens"] <= 9 for row in history)
    assert history[0]["kl"] == pytest.approx(0.0, abs=1e-4)  # the actor starts as the reference
    assert not (tmp_path / "c.safetensors").exists()


def test_the_multiplier_moves_by_the_rule(make_loop: Callable[..., LocalLoop], tmp_path: Path) -> None:
    """ln lambda <- ln lambda + 0.1 lambda (mean of the last 16 costs - threshold); four rows a step, so four steps."""
    loop = make_loop(threshold=-0.5)
    history = loop.run(checkpoint=tmp_path / "c.safetensors")
    log, means = 0.0, [row["cost"] for row in history]
    for step, row in enumerate(history):
        window = means[max(0, step - 3) : step + 1]
        log = min(log + 0.1 * math.exp(log) * (sum(window) / len(window) + 0.5), math.log(5.0))
        assert row["multiplier"] == pytest.approx(math.exp(log), rel=1e-5)


def test_killed_and_resumed_equals_uninterrupted(make_loop: Callable[..., LocalLoop], tmp_path: Path) -> None:
    whole = make_loop()
    whole.run(checkpoint=tmp_path / "whole.safetensors", checkpoint_every=2)
    part = tmp_path / "part.safetensors"
    make_loop(steps=5).run(checkpoint=part, checkpoint_every=2)  # the fifth step is lost, the last save was after four
    resumed, seen = make_loop(), []
    resumed.run(checkpoint=part, checkpoint_every=2, on_step=seen.append)
    assert [row["step"] for row in seen] == [4.0, 5.0]
    assert timeless(resumed.history) == timeless(whole.history)
    assert resumed.multiplier.state_dict() == whole.multiplier.state_dict()
    for role in ROLES:
        expected = whole.trunk.state_of(role)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in resumed.trunk.state_of(role).items())


def test_a_damaged_checkpoint_starts_again(make_loop: Callable[..., LocalLoop], tmp_path: Path) -> None:
    (tmp_path / "c.safetensors").write_bytes(b"half a file")
    loop = make_loop(steps=1)
    assert len(loop.run(checkpoint=tmp_path / "c.safetensors")) == 1


def test_only_the_trained_roles_change(make_loop: Callable[..., LocalLoop], tmp_path: Path) -> None:
    loop = make_loop(steps=2)
    before = {role: {k: t.clone() for k, t in loop.trunk.state_of(role).items()} for role in ROLES}
    base = {k: p.clone() for k, p in loop.trunk.model.named_parameters() if "lora_" not in k}
    loop.run(checkpoint=tmp_path / "c.safetensors")
    for role in ROLES:
        same = all(torch.equal(t, before[role][k]) for k, t in loop.trunk.state_of(role).items())
        assert same == (role not in TRAINED), role
    assert all(torch.equal(p, base[k]) for k, p in loop.trunk.model.named_parameters() if k in base)


def test_prompts_walk_through_shuffled_epochs(make_loop: Callable[..., LocalLoop]) -> None:
    loop, reversed_loop = make_loop(), make_loop(PROMPTS[::-1])
    names = [name for step in range(5) for name, _ in loop.batch(step)]
    for epoch in range(4):
        assert sorted(names[5 * epoch : 5 * epoch + 5]) == sorted(name for name, _ in PROMPTS)
    assert len({tuple(names[5 * epoch : 5 * epoch + 5]) for epoch in range(4)}) > 1
    assert loop.batch(3) == reversed_loop.batch(3)


def test_an_epoch_is_shuffled_once(make_loop: Callable[..., LocalLoop], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten steps of four prompts are eight epochs of five."""
    shuffled: list[str] = []

    def seed(number: int, epoch: str, name: str) -> int:
        shuffled.append(epoch)
        return uniform_seed(number, epoch, name)

    monkeypatch.setattr("poise.align.engine.local.uniform_seed", seed)
    loop = make_loop()
    for step in range(10):
        loop.batch(step)
    assert shuffled == [str(epoch) for epoch in range(8) for _ in PROMPTS]
    later, anew = loop.batch(1), make_loop().batch(1)  # back to an epoch that is no longer kept
    assert later == anew


def test_two_processes_ask_what_one_asks(make_loop: Callable[..., LocalLoop], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an epoch ends in a step, a prompt may fall to both: its responses still have chances of their own."""
    asked: list[tuple[tuple[int, ...], int | None]] = []

    def generate(trunk: Trunk, requests: list[Request], **role: str) -> None:
        asked.extend((tuple(request.prompt), request.sampling.seed) for request in requests)
        raise InterruptedError

    def of_share(first: int, size: int) -> list[tuple[tuple[int, ...], int | None]]:
        asked.clear()
        monkeypatch.setattr("poise.align.engine.local.mine", lambda items: items[first::size])
        for step in range(6):
            with pytest.raises(InterruptedError):
                loop.step(step)
        return list(asked)

    monkeypatch.setattr("poise.align.engine.rollout.generate", generate)
    loop = make_loop(responses_per_prompt=2)
    alone, halves = of_share(0, 1), of_share(0, 2) + of_share(1, 2)
    assert len(alone) == 6 * 4 * 2 and len({*alone}) == len(alone)
    assert sorted(halves) == sorted(alone)


@pytest.mark.parametrize("pack", [False, True])
def test_a_prompt_that_comes_twice_in_a_step_makes_two_groups_in_any_number_of_processes(
    make_loop: Callable[..., LocalLoop], monkeypatch: pytest.MonkeyPatch, pack: bool
) -> None:
    """Seven askings of five prompts: a group is one asking, named by its prompt, whole in one process."""
    loop = make_loop(prompts_per_step=7, responses_per_prompt=2)
    loop.packed = pack
    batches: list[Responses] = []

    def keep(trunk: Trunk, responses: Responses, *rest: Any, **roles: Any) -> Rollout:
        batches.append(responses)
        return measure(trunk, responses, *rest, **roles)

    def of_share(first: int, size: int) -> list[tuple[str, int]]:
        batches.clear()
        monkeypatch.setattr("poise.align.engine.local.mine", lambda items: items[first::size])
        loop.step(0)
        names = [name for name, _ in loop.batch(0)]
        sizes = Counter(number for batch in batches for number in batch.group.tolist())
        return sorted((names[number], count) for number, count in sizes.items())

    monkeypatch.setattr("poise.align.engine.local.measure", keep)
    alone, first, second = of_share(0, 1), of_share(0, 2), of_share(1, 2)
    assert len(alone) == 7 and all(count == 2 for _, count in alone) and len({name for name, _ in alone}) == 5
    assert sorted(first + second) == alone and {name for name, _ in first} & {name for name, _ in second}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_no_number_stops_the_run(
    make_loop: Callable[..., LocalLoop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: float
) -> None:
    loop = make_loop()
    loop.run(checkpoint=tmp_path / "c.safetensors", checkpoint_every=6)
    saved = (tmp_path / "c.safetensors").read_bytes()
    use_scores(monkeypatch, constant(0.0), constant(bad))
    with pytest.raises(PoiseError, match="not a number") as caught:
        make_loop(steps=8).run(checkpoint=tmp_path / "c.safetensors", checkpoint_every=1)
    assert caught.value.exit_code == 4 and caught.value.where == "align step 6"
    assert (tmp_path / "c.safetensors").read_bytes() == saved


def test_no_prompts(make_loop: Callable[..., LocalLoop]) -> None:
    with pytest.raises(PoiseError, match="no prompts"):
        make_loop([])


def count(liked: Tensor) -> Scores:
    """How many of the liked tokens stand in each response."""
    return lambda tokens: (torch.isin(tokens.ids, liked) & tokens.response).sum(-1).float()


def favourites(loop: LocalLoop, number: int) -> Tensor:
    """The tokens that the untrained actor writes most often."""
    (responses,) = roll_out(loop.trunk, PROMPTS * 20, seed=0, step=0, temperature=1.0, max_new_tokens=8, rows=1000)
    tokens = responses.tokens
    return tokens.ids[tokens.response].bincount().topk(number).indices


LONGER = {"steps": 30, "prompts_per_step": 24, "rows_per_batch": 24}


def test_the_reward_rises(make_loop: Callable[..., LocalLoop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loop = make_loop(**LONGER)
    use_scores(monkeypatch, count(favourites(loop, 20)), constant(-1.0))
    history = loop.run(checkpoint=tmp_path / "c.safetensors", checkpoint_every=100)
    reward = [row["reward"] for row in history]
    assert sum(reward[-5:]) / 5 > sum(reward[:5]) / 5 + 1.0
    assert history[-1]["multiplier"] < 1 and history[-1]["kl"] > 0


def test_the_cost_falls_when_the_rewarded_is_forbidden(
    make_loop: Callable[..., LocalLoop], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reward and cost both count the liked tokens: above the threshold lambda rises until the cost outweighs."""
    loop = make_loop(**LONGER, threshold=-2.0)
    liked = count(favourites(loop, 120))
    use_scores(monkeypatch, liked, liked)
    history = loop.run(checkpoint=tmp_path / "c.safetensors", checkpoint_every=100)
    cost = [row["cost"] for row in history]
    assert sum(cost[-5:]) < 0.6 * sum(cost[:5])
    assert history[-1]["multiplier"] == pytest.approx(5.0)


def test_the_batch_size_has_no_effect_on_the_result(make_loop: Callable[..., LocalLoop], tmp_path: Path) -> None:
    few, many = (make_loop(steps=3, rows_per_batch=n) for n in (1, 100))
    for index, loop in enumerate((few, many)):
        loop.run(checkpoint=tmp_path / f"{index}.safetensors")
    for row, other in zip(timeless(few.history), timeless(many.history), strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-4)
