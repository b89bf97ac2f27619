"""Every online method on the loop: it runs, trains what it has, and depends on nothing that it should not."""

from __future__ import annotations

import json
import math
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from online_case import PROMPTS, SCALE, SETTINGS, constants, make, rule, timeless, together
from torch import Tensor

from poise.align.algorithms.ppo_lagrangian import PPOLagrangian
from poise.align.algorithms.repo import RePO
from poise.align.algorithms.reward_shaping import RewardShaping
from poise.align.engine import ONLINE, PTX, Algorithm, Constraint, LocalLoop, online_roles, train_online
from poise.align.engine.constraints import ONE
from poise.align.engine.rollout import Responses, measure, packed, roll_out
from poise.align.engine.views import shared_passes
from poise.align.multiplier import FixedMultiplier, LogMultiplier, Multipliers
from poise.errors import PoiseError
from poise.models.trunk import Trunk

CRITICS = {
    "ppo": ("reward_critic",),
    "reward_shaping": ("reward_critic",),
    "ppo_lagrangian": ("reward_critic", "cost_critic"),
    "repo": ("reward_critic", "cost_critic"),
    "grpo_lagrangian": (),
    "rloo_lagrangian": (),
}
TWO = (Constraint("all"), Constraint("severe", role="severe"))


@pytest.fixture
def model(tiny_lm: Path, float32: None) -> Path:
    """Folder of the tiny model, computed in float32."""
    return tiny_lm


@pytest.mark.parametrize("name", ONLINE)
def test_each_method_trains_its_roles_and_no_other(model: Path, tmp_path: Path, name: str) -> None:
    loop = make(model, name, steps=2)
    roles = online_roles(constants(name))
    assert roles == ("actor", "reward", "cost", *CRITICS[name]) and loop.trunk.roles == roles
    before = {role: {k: t.clone() for k, t in loop.trunk.state_of(role).items()} for role in roles}
    history = loop.run(checkpoint=tmp_path / "c.safetensors")
    assert all(math.isfinite(value) for row in history for value in row.values())
    assert {key for key in history[0] if key.startswith("loss")} == {f"loss_{r}" for r in ("actor", *CRITICS[name])}
    changed = {r for r in roles if any(not torch.equal(t, before[r][k]) for k, t in loop.trunk.state_of(r).items())}
    assert changed == {"actor", *CRITICS[name]}


@pytest.mark.parametrize("name", ONLINE)
def test_results_do_not_depend_on_micro_batches(model: Path, tmp_path: Path, name: str) -> None:
    ptx = PTX([([1, 30], [40, 41]), ([1, 31, 32], [42, 2]), ([1], [43, 44, 45])], 0.5, rows_per_step=3)
    few, many = (make(model, name, steps=2, rows_per_batch=rows, ptx=ptx) for rows in (1, 100))
    for number, loop in enumerate((few, many)):
        loop.run(checkpoint=tmp_path / f"{number}.safetensors")
    for row, other in zip(timeless(few.history), timeless(many.history), strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("name", ONLINE)
def test_results_do_not_depend_on_padding(model: Path, name: str) -> None:
    loop = make(model, name)
    gradients = []
    for extra in (0, 7):
        (responses,) = rolled(loop, 100)
        wider = torch.nn.functional.pad(responses.tokens.ids, (0, extra), value=77)
        gradients.append(actor_gradient(loop, [Responses(responses.tokens._replace(ids=wider), responses.group)]))
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", sorted(set(ONLINE) - {"ppo"}))
def test_the_weight_of_kl_does_not_depend_on_lambda(model: Path, name: str) -> None:
    """The part of the actor's gradient that comes from KL, at lambda 0, 0.5 and 8."""
    parts = []
    for value in (0.0, 0.5, 8.0):
        gradients = []
        for kl in (0.3, 0.0):
            loop = make(model, name, algorithm=with_kl(name, kl), multiplier=FixedMultiplier(value))
            move_actor(loop.trunk)
            gradients.append(actor_gradient(loop, rolled(loop, 100)))
        parts.append(gradients[0] - gradients[1])
    assert parts[0].norm() > 1e-3
    for part in parts[1:]:
        torch.testing.assert_close(part, parts[0], atol=1e-4 * float(parts[0].norm()), rtol=1e-3)


@pytest.mark.parametrize("name", ["ppo_lagrangian", "repo", "grpo_lagrangian"])
def test_packed_rows_give_what_padded_ones_do(model: Path, tmp_path: Path, name: str) -> None:
    """Two cost models where the method may have them: values, scores and log-probabilities of every kind."""
    two = name != "repo"
    histories = []
    for pack in (False, True):
        both = Multipliers({"all": LogMultiplier(threshold=-9.0), "severe": LogMultiplier(threshold=9.0)})
        constraints, multiplier = (TWO, both) if two else (ONE, None)
        loop = make(
            model, name, constraints=constraints, multiplier=multiplier, pack=pack, steps=2, responses_per_prompt=3
        )
        histories.append(timeless(loop.run(checkpoint=tmp_path / f"{pack}.safetensors")))
    for row, other in zip(*histories, strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-4)


def test_packed_rows_hold_each_prompt_once(model: Path) -> None:
    """Three responses to each of three prompts, some cut and some ended: same numbers response by response."""
    loop = make(model, "ppo_lagrangian", responses_per_prompt=3)
    (padded,) = rolled(loop, 100)
    padded.tokens.ids[0, padded.tokens.length[0] - 1] = loop.trunk.tokenizer.eos_token_id
    groups = packed(loop.trunk, [padded], 100)
    tokens = sum(int(each.tokens.packed.real) for each in groups)
    ended = measure(loop.trunk, padded, SCALE)
    assert tokens < 0.8 * int(padded.tokens.length.sum())
    rows: list[list[tuple[float, ...]]] = []
    for rollouts in ([ended], [measure(loop.trunk, each, SCALE) for each in groups]):
        rows.append([])
        for r in rollouts:
            e, m = r.experience, r.experience.mask
            for i in range(len(r.group)):
                parts = (e.log_prob, e.reference_log_prob, e.value_reward, e.value_cost)
                numbers = (float(r.group[i]), float(e.reward[i]), float(e.cost[i]))
                rows[-1].append((*numbers, *(v for part in parts for v in part[i][m[i]].tolist())))
    assert len(rows[0]) == 9
    for one, other in zip(sorted(rows[0]), sorted(rows[1]), strict=True):
        assert one == pytest.approx(other, abs=1e-4)


@pytest.mark.slow
def test_two_processes_give_the_history_of_one(model: Path, tmp_path: Path) -> None:
    """Shares of four and three prompts, some asked in both; a fault in one process ends both, each with a line."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    methods = ("ppo_lagrangian", "rloo_lagrangian")
    words = [sys.executable, str(Path(__file__).parent / "online_case.py"), str(model), str(tmp_path), "together"]
    common = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    common |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen([*words, *methods], env={**common, "RANK": str(rank)}, stderr=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    complaints = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], complaints
    for name in methods:
        loop = make(model, name, **together(name))
        asked = [name for name, _ in loop.batch(0)[:: SETTINGS.responses_per_prompt]]
        assert {*asked[::2]} & {*asked[1::2]}
        alone = loop.run(checkpoint=tmp_path / "alone")
        histories = [json.loads((tmp_path / f"{name} {rank}.json").read_text()) for rank in range(2)]
        for one, first, second in zip(timeless(alone), *map(timeless, histories), strict=True):
            assert first == second
            assert first == pytest.approx(one, rel=1e-3, abs=1e-4)
    assert "align step 2: loss of actor is not a number (prompts p-" in (tmp_path / "error 0").read_text()
    assert "align step 2: another process has stopped" in (tmp_path / "error 1").read_text()


@pytest.mark.parametrize("pack", [False, True])
def test_grpo_asks_the_actor_once_and_learns_the_same(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pack: bool
) -> None:
    """The first pass of an update is that of the policy that acted, in later passes too; PPO has to ask before."""
    histories, times = [], []
    for asked in (False, True):
        loop = make(model, "grpo_lagrangian", steps=2, updates_per_rollout=2, rows_per_batch=2, pack=pack)
        assert not loop.method.takes_old and make(model, "ppo_lagrangian").method.takes_old
        roles = watch_roles(loop, monkeypatch)
        monkeypatch.setattr(type(loop.method), "takes_old", asked)
        histories.append(timeless(loop.run(checkpoint=tmp_path / f"{asked}.safetensors")))
        times.append(roles.count("actor"))
        monkeypatch.undo()
    assert times[0] > 0 and times[1] == 1.5 * times[0]  # two passes of the update, and one before
    for row, other in zip(*histories, strict=True):
        assert row["kl"] != 0 or row["step"] == 0
        assert row == pytest.approx(other, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("pack", [False, True])
def test_one_pass_scores_for_roles_with_one_adapter(model: Path, monkeypatch: pytest.MonkeyPatch, pack: bool) -> None:
    """As a preference model with two heads leaves them: the same adapter in both roles, heads of their own."""
    loop = make(model, "grpo_lagrangian")
    assert shared_passes(loop.trunk, ("reward", "cost")) == [["reward"], ["cost"]]
    head = loop.trunk.heads["cost"].state_dict()
    body = {name: tensor for name, tensor in loop.trunk.state_of("reward").items() if not name.startswith("head.")}
    loop.trunk.load_role("cost", body | {f"head.{name}": tensor for name, tensor in head.items()}, saved_as="reward")
    passes = shared_passes(loop.trunk, ("reward", "cost"))
    assert passes == [["reward", "cost"]]
    batches, asked = rolled(loop, 100), watch_roles(loop, monkeypatch)
    for responses in packed(loop.trunk, batches, 100) if pack else batches:
        together, apart = (measure(loop.trunk, responses, SCALE, critics=(), passes=p) for p in (passes, ()))
        assert asked == ["reward", "actor", "reference", "reward", "cost", "actor", "reference"]
        assert torch.equal(together.experience.reward, apart.experience.reward)
        assert torch.equal(together.experience.cost, apart.experience.cost)
        assert not torch.equal(together.experience.cost, together.experience.reward)
        asked.clear()


def watch_roles(loop: LocalLoop, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Gets the role of each pass through the trunk's adapters from now on."""
    asked: list[str] = []
    upper = loop.trunk.upper

    def watched(lower: Tensor, role: str, *packed: Any) -> Tensor:
        asked.append(role)
        return upper(lower, role, *packed)

    monkeypatch.setattr(loop.trunk, "upper", watched)
    return asked


def rolled(loop: LocalLoop, rows: int) -> list[Responses]:
    """The responses of step 0."""
    each = loop.settings.responses_per_prompt
    return roll_out(loop.trunk, loop.batch(0), seed=1, step=0, temperature=1.0, max_new_tokens=6, rows=rows, each=each)


def actor_gradient(loop: LocalLoop, batches: list[Responses]) -> Tensor:
    """Flat gradient of the actor's loss on a rollout, at lambda as it is."""
    roles = {"costs": loop.constraints.roles, "critics": tuple(loop.method.critics)}
    rollouts = [measure(loop.trunk, responses, SCALE, **roles) for responses in batches]
    names = [name for name, _ in loop.batch(0)]
    learned = loop.method.learned(rollouts, [loop.constraints.weights(r, names) for r in rollouts])
    parameters = loop.trunk.parameters_of("actor")
    for parameter in parameters:
        parameter.grad = None
    for rollout, each in zip(rollouts, learned, strict=True):
        log_prob = loop.trunk.response_log_probs(loop.trunk.upper(rollout.lower, "actor"), rollout.tokens)
        loop.method.actor_loss(log_prob, rollout, each, 0.2).backward()
    return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


def with_kl(name: str, kl: float) -> Algorithm:
    """A method's constants with this beta."""
    algorithm = constants(name)
    if isinstance(algorithm, RePO | RewardShaping):
        return algorithm._replace(ppo=algorithm.ppo._replace(kl=kl))  # type: ignore[arg-type]
    return algorithm._replace(kl=kl)


def move_actor(trunk: Trunk) -> None:
    """Away from the reference, where every KL would be zero."""
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for tensor in trunk.state_of("actor").values():
            tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)


@pytest.mark.parametrize("name", ["ppo_lagrangian", "grpo_lagrangian", "rloo_lagrangian", "reward_shaping"])
def test_two_cost_models_with_a_multiplier_each(model: Path, tmp_path: Path, name: str) -> None:
    multiplier = Multipliers({"all": LogMultiplier(threshold=-9.0), "severe": LogMultiplier(threshold=9.0)})
    loop = make(model, name, constraints=TWO, multiplier=multiplier, steps=2)
    if name == "ppo_lagrangian":
        assert loop.trained == ("actor", "reward_critic", "cost_critic", "severe_critic")
    last = loop.run(checkpoint=tmp_path / "c.safetensors")[-1]
    assert last["multiplier_all"] > 1 > last["multiplier_severe"]
    assert last["multiplier"] == pytest.approx(last["multiplier_all"] + last["multiplier_severe"])
    assert last["cost_all"] == pytest.approx(last["cost"]) and last["cost_severe"] != last["cost_all"]


def test_a_second_constraint_at_lambda_zero_changes_nothing(model: Path) -> None:
    """A = (A_r - 0.7 A_c - 0 A_s) / (1 + 0.7 + 0); and lambda 5 on the second does change it."""
    one = make(model, "ppo_lagrangian", multiplier=FixedMultiplier(0.7))
    expected = actor_gradient(one, rolled(one, 100))
    for value, same in ((0.0, True), (5.0, False)):
        both = Multipliers({"all": FixedMultiplier(0.7), "severe": FixedMultiplier(value)})
        two = make(model, "ppo_lagrangian", constraints=TWO, multiplier=both)
        two.trunk.load_role("cost_critic", one.trunk.state_of("cost_critic"))
        assert torch.allclose(actor_gradient(two, rolled(two, 100)), expected, atol=1e-6) == same


@pytest.mark.parametrize("name", ["ppo_lagrangian", "grpo_lagrangian", "repo"])
def test_a_constraint_on_some_prompts_moves_by_their_costs_and_weighs_on_them_alone(model: Path, name: str) -> None:
    groups = (Constraint("a", prompts=frozenset({"p-0", "p-1"})), Constraint("b", prompts=frozenset({"p-2"})))
    multiplier = Multipliers({"a": FixedMultiplier(2.0), "b": FixedMultiplier(3.0)})
    loop = make(model, name, constraints=groups, multiplier=multiplier)
    prompts = [p for p in PROMPTS[:4] for _ in range(2)]
    names = [name for name, _ in prompts]
    batches = roll_out(loop.trunk, prompts, seed=1, step=0, temperature=1.0, max_new_tokens=6, rows=3, each=2)
    rollouts = [measure(loop.trunk, responses, SCALE, critics=tuple(loop.method.critics)) for responses in batches]
    expected = {"p-0": 2.0, "p-1": 2.0, "p-2": 3.0, "p-3": 0.0}
    for rollout in rollouts:
        weight = loop.constraints.weights(rollout, names)["cost"]
        assert isinstance(weight, Tensor)
        assert weight.tolist() == [expected[names[number]] for number in rollout.group.tolist()]
    learned = loop.method.learned(rollouts, [loop.constraints.weights(r, names) for r in rollouts])
    assert all(bool(each.advantage.isfinite().all()) for each in learned)
    loop.constraints.update(rollouts, names, loop.method.measured)
    cost = {names[n]: [] for n in range(len(names))}  # type: dict[str, list[float]]
    for rollout in rollouts:
        for number, value in zip(rollout.group.tolist(), rollout.experience.cost.tolist(), strict=True):
            cost[names[number]].append(value)
    row = loop.constraints.row(rollouts, names)
    assert row["cost_a"] == pytest.approx(sum(cost["p-0"] + cost["p-1"]) / 4, rel=1e-4)
    assert row["cost_b"] == pytest.approx(sum(cost["p-2"]) / 2, rel=1e-4)


def test_a_rollout_without_a_group_leaves_its_multiplier(model: Path, tmp_path: Path) -> None:
    groups = (Constraint("seen"), Constraint("never", prompts=frozenset({"elsewhere"})))
    multiplier = Multipliers({"seen": LogMultiplier(threshold=-9.0), "never": LogMultiplier(initial=0.5)})
    loop = make(model, "grpo_lagrangian", constraints=groups, multiplier=multiplier, steps=1)
    (row,) = loop.run(checkpoint=tmp_path / "c.safetensors")
    assert row["multiplier_never"] == pytest.approx(0.5) and row["multiplier_seen"] > 1 and "cost_never" not in row


def test_ptx_adds_the_gradient_of_its_loss(model: Path) -> None:
    """gamma times the mean over response tokens of -log p, here by autograd on full logits."""
    rows = [([1, 30 + i, 33], [40 + i, 41, 2][: 1 + i % 3]) for i in range(6)]
    loop = make(model, "ppo", ptx=PTX(rows, 0.25, rows_per_step=4))
    assert loop.ptx is not None
    parameters = loop.trunk.parameters_of("actor")
    chosen = [rows[i] for i in loop.ptx.chosen(3, 7)]
    with loop.trunk.role("actor"):
        losses = []
        for prompt, response in chosen:
            logits = loop.trunk.model(input_ids=torch.tensor([prompt + response])).logits[0]
            at = slice(len(prompt) - 1, len(prompt) + len(response) - 1)
            losses.append(torch.nn.functional.cross_entropy(logits[at], torch.tensor(response), reduction="sum"))
        expected = 0.25 * torch.stack(losses).sum() / sum(len(response) for _, response in chosen)
        by_hand = torch.autograd.grad(expected, parameters, allow_unused=True)
    for parameter in parameters:
        parameter.grad = None
    parts = list(loop.ptx.losses(loop.trunk, 3, 7, rows=3))
    for part in parts:
        part.backward()
    assert sum(float(part.detach()) for part in parts) == pytest.approx(float(expected.detach()), rel=1e-5)
    for parameter, gradient in zip(parameters, by_hand, strict=True):
        assert parameter.grad is not None and gradient is not None
        torch.testing.assert_close(parameter.grad, gradient, atol=1e-6, rtol=1e-4)
    assert loop.ptx.chosen(3, 7) != loop.ptx.chosen(3, 8) or loop.ptx.chosen(3, 7) != loop.ptx.chosen(3, 9)


Build = Callable[[Path], object]


@pytest.mark.parametrize(
    ("build", "what"),
    [
        (lambda m: make(m, "grpo_lagrangian", responses_per_prompt=1), "responses_per_prompt is 1"),
        (lambda m: make(m, "rloo_lagrangian", center_advantages=True), "center_advantages"),
        (lambda m: make(m, "ppo", center_advantages=True, responses_per_prompt=1), "all advantages would be zero"),
        (lambda m: make(m, "repo", constraints=TWO, multiplier=Multipliers({"all": rule("repo"), "severe": rule("repo")})), "one cost model"),  # type: ignore[dict-item]  # noqa: E501
        (lambda m: make(m, "ppo_lagrangian", constraints=TWO), "constraints are"),
        (lambda m: make(m, "ppo", ptx=PTX([], 1.0)), "0 rows"),
        (lambda m: make(m, "ppo", ptx=PTX([([1], [2])], 0.0)), "coefficient is 0.0"),
        (lambda m: LocalLoop(Trunk(m, roles=("actor",)), PROMPTS, PPOLagrangian(), rule("x"), SCALE, SETTINGS), "needs the roles reward"),  # noqa: E501
        (lambda m: LocalLoop(Trunk(m, roles=("actor",)), PROMPTS, PPOLagrangian(), None, SCALE, SETTINGS), "no multiplier"),  # noqa: E501
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused(model: Path, build: Build, what: str) -> None:
    with pytest.raises(PoiseError, match=what):
        build(model)


def test_train_online_saves_at_the_end_and_goes_on(model: Path, tmp_path: Path) -> None:
    results = []
    for steps in (1, 3):
        loop = make(model, "rloo_lagrangian")
        results.append(
            train_online(
                loop.trunk,
                PROMPTS,
                constants("rloo_lagrangian"),
                rule("rloo_lagrangian"),
                SCALE,
                SETTINGS._replace(steps=steps),
                checkpoint=tmp_path / "c.safetensors",
            )
        )
    assert len(results[1].history) == 3 and results[1].history[0] == results[0].history[0]
    assert results[0].evaluations == []
