"""What went wrong in earlier code for safe RLHF, each as a test of ours: one sentence on the defect, then what holds.

The list is of defects in training that were found in published implementations. Those of judges, launch scripts and
data cards are tested where those parts are.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

import poise
from poise.align.algorithms.dpo import DPO
from poise.align.algorithms.pairs import PairLogProbs
from poise.align.algorithms.ppo_lagrangian import PPOLagrangian
from poise.align.core import (
    combine,
    gae,
    masked_mean,
    response_log_probs,
    sequence_log_probs,
    token_log_probs,
    token_signals,
)
from poise.align.engine.local import LocalLoop
from poise.align.engine.rollout import ScoreScale, roll_out
from poise.align.engine.settings import LoopSettings
from poise.align.multiplier import LinearMultiplier, LogMultiplier, PIDMultiplier
from poise.align.sft.batches import plan_epoch
from poise.align.train.data import read_pairs
from poise.align.train.recipe import Head, TrainingSection
from poise.data.rows import uniform_seed
from poise.models.trunk import Trunk, collate, last_kept

CPU = torch.device("cpu")
PROMPTS = [(f"p-{i}", [1, 20 + i, 30, *range(40, 40 + i)]) for i in range(5)]


def loop_settings(**changes: Any) -> LoopSettings:
    """Of a loop of two steps."""
    settings = LoopSettings(
        steps=2,
        prompts_per_step=4,
        responses_per_prompt=2,
        max_new_tokens=6,
        temperature=1.0,
        actor_learning_rate=1e-3,
        critic_learning_rate=1e-3,
        updates_per_rollout=1,
        rows_per_batch=8,
        ratio_clip=0.2,
        value_clip=5.0,
        center_advantages=False,
        seed=3,
    )
    return settings._replace(**changes)


def make_loop(make_roles: Callable[[], Trunk], **changes: Any) -> LocalLoop:
    """A loop on the tiny trunk."""
    scale, multiplier = ScoreScale(0.0, 1.0, 1.0), LogMultiplier(threshold=-0.5, lr=0.3, window=16)
    return LocalLoop(make_roles(), PROMPTS, PPOLagrangian(), multiplier, scale, loop_settings(**changes))


def chosen(states: Tensor, weight: Tensor, ids: Tensor, at: range) -> float:
    """Sum of log p of tokens `at` of one row, worked out token by token from the whole softmax."""
    table = (states @ weight.T).log_softmax(-1)
    return float(sum(table[t - 1, ids[t]] for t in at))


@pytest.fixture
def two_responses() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random states [2, 9, 5] and head [11, 5]; ids of two rows that differ from column 3 on; mask of columns 3..6."""
    chance = torch.Generator().manual_seed(0)
    states, weight = torch.randn(2, 9, 5, generator=chance), torch.randn(11, 5, generator=chance)
    ids = torch.tensor([[1, 2, 3, 7, 5, 6, 10, 0, 0], [1, 2, 3, 8, 5, 4, 10, 0, 0]])
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[:, 3:7] = True
    return states, weight, ids, mask


def test_dpo_counts_the_first_token_that_differs_and_no_padding(two_responses: tuple[Tensor, ...]) -> None:
    """A slice over ids was applied to log-probabilities that had been shifted: the first differing token was lost, and
    a padding token could come in."""
    states, weight, ids, mask = two_responses
    sums = sequence_log_probs(response_log_probs(states, weight, ids, mask), mask)
    for row in range(2):
        assert float(sums[row]) == pytest.approx(chosen(states[row], weight, ids[row], range(3, 7)), rel=1e-5)
    only_first = ids.clone()
    only_first[1] = only_first[0]
    only_first[1, 3] = 8  # the two responses differ in their first token alone
    same = states[:1].expand(2, -1, -1)
    apart = sequence_log_probs(response_log_probs(same, weight, only_first, mask), mask)
    zero = torch.zeros(1)
    loss = DPO(0.1).loss(PairLogProbs(apart[:1], apart[1:], zero, zero)).loss
    assert float(loss) != pytest.approx(float(torch.tensor(2.0).log()), abs=1e-4)  # log 2 is what no gap gives


def test_a_suffix_after_the_answer_does_not_move_what_dpo_counts(two_responses: tuple[Tensor, ...]) -> None:
    """Responses were cut out by counting from the end, so that a template with text after the answer moved the cut."""
    states, weight, ids, mask = two_responses
    before = response_log_probs(states, weight, ids, mask)
    ids[:, 7:] = torch.tensor([9, 4])  # a suffix of the template in place of padding
    after = response_log_probs(states, weight, ids, mask)
    assert torch.equal(before, after)
    assert torch.equal(after != 0, mask)


def test_lambda_moves_once_a_rollout_whatever_the_batches_are(make_roles: Callable[[], Trunk], tmp_path: Path) -> None:
    """The multiplier was stepped for every micro-batch, so its speed was that of the batch shape."""
    few, many = make_loop(make_roles, rows_per_batch=1), make_loop(make_roles, rows_per_batch=100)
    for number, loop in enumerate((few, many)):
        loop.run(checkpoint=tmp_path / f"{number}.safetensors")
    lambdas = [[row["multiplier"] for row in loop.history] for loop in (few, many)]
    assert lambdas[0] == pytest.approx(lambdas[1], rel=1e-3) and lambdas[0][0] != 1.0
    assert few.multiplier.state_dict()["rollouts"] == many.multiplier.state_dict()["rollouts"] == 2


def test_lambda_comes_back_at_once_after_a_safe_start() -> None:
    """ln lambda had an upper clamp alone, so a policy that began safe drove it so low that it could not come back in
    time; the published rule is kept as it is, and the others leave zero in one step."""
    for rule in (LinearMultiplier(0.0, 0.0, 0.1, window=8), PIDMultiplier(0.0, window=8)):
        for _ in range(200):
            rule.update([-5.0] * 8)
        assert rule.value == 0.0
        assert rule.update([1.0] * 8) > 0.05


def test_the_multiplier_and_its_window_are_in_the_checkpoint(make_roles: Callable[[], Trunk], tmp_path: Path) -> None:
    """Neither lambda nor the queue of costs nor the critics were saved: a run that went on began with lambda anew."""
    whole, part = make_loop(make_roles, steps=4), make_loop(make_roles, steps=2)
    whole.run(checkpoint=tmp_path / "whole.safetensors")
    part.run(checkpoint=tmp_path / "part.safetensors", checkpoint_every=2)
    going_on = make_loop(make_roles, steps=4)
    going_on.run(checkpoint=tmp_path / "part.safetensors", checkpoint_every=2)
    assert [row["multiplier"] for row in going_on.history] == [row["multiplier"] for row in whole.history]
    assert going_on.multiplier.state_dict() == whole.multiplier.state_dict()
    for role in ("reward_critic", "cost_critic"):
        expected = whole.trunk.state_of(role)
        assert all(torch.equal(t, expected[name]) for name, t in going_on.trunk.state_of(role).items())


def test_the_kl_weight_is_beta_for_every_lambda() -> None:
    """KL was split by halves between reward and cost, so its weight in the combined advantage changed with lambda."""
    mask = torch.ones(1, 3, dtype=torch.bool)
    log_prob, reference = torch.tensor([[-1.0, -2.0, -0.5]]), torch.tensor([[-1.5, -1.0, -0.7]])
    nothing, value = torch.zeros(1), torch.zeros(1, 3)
    signals = token_signals(nothing, nothing, log_prob, reference, mask, kl=0.1)
    by_lambda = [
        combine(gae(signals.reward, value, mask).advantage, gae(signals.cost, value, mask).advantage, multiplier)
        for multiplier in (0.0, 1.0, 30.0)
    ]
    assert by_lambda[0].abs().min() > 0
    assert all(torch.allclose(each, by_lambda[0]) for each in by_lambda)


def test_every_epoch_has_an_order_of_its_own(make_roles: Callable[[], Trunk]) -> None:
    """The sampler was never told the epoch, so that every epoch came in the order of the first."""
    plans = [
        plan_epoch([3] * 40, packed=False, batch_size=4, accumulate=2, max_length=8, seed=1, epoch=epoch)
        for epoch in range(3)
    ]
    orders = [[row for step in plan for batch in step for row in batch] for plan in plans]
    assert orders[0] != orders[1] != orders[2] and sorted(orders[0]) == sorted(orders[1]) == sorted(orders[2])
    loop = make_loop(make_roles, prompts_per_step=5, responses_per_prompt=1)
    walks = [tuple(name for name, _ in loop.batch(epoch)) for epoch in range(4)]
    assert len(set(walks)) > 1 and len({frozenset(walk) for walk in walks}) == 1


@pytest.mark.parametrize("token", ["pad", "unk", "zero"])
def test_a_mask_does_not_depend_on_token_ids(make_trunk: Callable[..., Trunk], token: str) -> None:
    """Masks were made by comparing ids with those of padding and of the unknown token, so real tokens of these ids in
    a prompt or an answer were never learnt from."""
    tokenizer = make_trunk().tokenizer
    odd = {"pad": tokenizer.pad_token_id, "unk": tokenizer.unk_token_id or 0, "zero": 0}[token]
    tokens = collate([[5, odd, 6], [5]], [[odd, 7, odd], [8]], CPU)
    assert tokens.response.tolist() == [[False, False, False, True, True, True], [False, True] + [False] * 4]
    assert tokens.kept.sum(-1).tolist() == [6, 2]


def test_padding_reaches_neither_loss_nor_kl_nor_the_place_of_the_score() -> None:
    """The mask of a sequence was all ones, so padding entered the loss and the KL term, and the final reward was put on
    a padding token."""
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    garbage = torch.tensor([[-1.0, -2.0, 77.0, -99.0], [-1.0, -1.0, -1.0, -1.0]])
    reward = torch.tensor([5.0, 7.0])
    signals = token_signals(reward, -reward, garbage, torch.zeros_like(garbage), mask, kl=0.1)
    assert signals.reward[0].tolist() == pytest.approx([0.1, 0.2 + 5.0, 0.0, 0.0])
    assert float(masked_mean(garbage, mask)) == pytest.approx((-1.5 - 1.0) / 2)


def test_a_token_of_probability_one_is_still_a_token() -> None:
    """Response tokens were found by `log-probability is not 0`, which loses those that the model is sure of."""
    weight = torch.tensor([[100.0], [-100.0]])
    hidden, ids = torch.tensor([[[5.0], [5.0], [5.0]]]), torch.tensor([[0, 0, 0]])
    mask = torch.tensor([[False, True, True]])
    log_prob = response_log_probs(hidden, weight, ids, mask)
    assert log_prob.tolist() == [[0.0, 0.0, 0.0]]  # exactly
    sums = sequence_log_probs(log_prob, mask, average=True)  # counts two tokens, and does not fail for want of one
    assert sums.tolist() == [0.0]


def test_an_answer_of_one_token_is_learnt_like_any_other(two_responses: tuple[Tensor, ...]) -> None:
    """Answers of one token were filled up with zeros to fit a slice, and their log-probability was that of nothing."""
    states, weight, ids, mask = two_responses
    mask[:] = False
    mask[:, 3] = True
    sums = sequence_log_probs(response_log_probs(states, weight, ids, mask), mask)
    assert float(sums[0]) == pytest.approx(float(token_log_probs(states[0, 2:3], weight, ids[0, 3:4])), rel=1e-6)


def test_scores_are_read_at_the_last_real_token(make_trunk: Callable[..., Trunk]) -> None:
    """Score heads read the last column of batches padded on the right, so the score was that of a padding token."""
    trunk = make_trunk("reward", heads=("reward",), shared_layers=2)
    prompt, response = [3, 4, 5], [6, 7]
    alone = collate([prompt], [response], CPU)
    beside = collate([prompt, prompt], [response, list(range(20, 60))], CPU)
    with torch.no_grad():
        score = trunk.score(trunk.lower(alone.ids), alone.length, "reward")
        padded = trunk.score(trunk.lower(beside.ids), beside.length, "reward")
    assert padded[0] == pytest.approx(float(score[0]), rel=1e-4, abs=1e-6)
    assert last_kept(beside.ids, beside.length).tolist() == [7, 59]


def test_the_width_of_a_score_head_is_the_models(make_trunk: Callable[..., Trunk]) -> None:
    """The head's width was a number of one model, written into the code."""
    trunk = make_trunk("cost", heads=("cost",))
    assert trunk.heads["cost"].linear.in_features == trunk.model.config.hidden_size == 32


def test_both_critics_start_as_their_own_models(make_roles: Callable[[], Trunk]) -> None:
    """The setting for another cost critic was read into the wrong variable, and the cost tokenizer was overwritten:
    here there is one tokenizer, and each critic is a copy of its own score model."""
    loop = make_loop(make_roles)
    for role in ("reward", "cost"):
        state = {name.replace(f"{role}_critic", role): t for name, t in loop.trunk.state_of(f"{role}_critic").items()}
        own = loop.trunk.state_of(role)
        assert all(torch.equal(state[name], tensor) for name, tensor in own.items())
    assert not torch.equal(
        loop.trunk.state_of("reward")["head.linear.weight"], loop.trunk.state_of("cost")["head.linear.weight"]
    )


def test_the_end_of_an_answer_is_a_token_and_not_a_character(make_roles: Callable[[], Trunk]) -> None:
    """Whether an answer had ended was asked of one character of the end token's text."""
    trunk = make_roles()
    (batch,) = roll_out(trunk, PROMPTS * 6, seed=1, step=0, temperature=1.0, max_new_tokens=6, rows=100)
    tokens, end = batch.tokens, trunk.tokenizer.eos_token_id
    lengths = tokens.length - tokens.prompt_length
    assert bool((lengths <= 7).all())
    inside = tokens.response & (torch.arange(tokens.ids.shape[1]) < (tokens.length - 1)[:, None])
    assert not bool((tokens.ids[inside] == end).any())  # nothing is said after an end


def test_a_row_that_contradicts_itself_or_is_broken_is_left_out_and_counted(tmp_path: Path) -> None:
    """One bad row, or one that named the unsafe response the safer one, ended the reading of the whole data set."""
    good, wrong, equal = dual(), dual() | {"safer_response_id": 1}, dual() | {"response_1": "I would rather not."}
    lines = [json.dumps(good), json.dumps(wrong), json.dumps(equal), '{"prompt": "half a li']
    (tmp_path / "rows.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    found = read_pairs([tmp_path / "rows.jsonl"])
    assert [(pair.better, pair.safer, pair.unsafe) for pair in found.pairs] == [(1, 0, (False, True))]
    assert len(found.left_out) == 3
    assert {"unsafe-called-safer", "equal-responses"} < set(found.counts)


def test_a_key_that_nothing_reads_is_refused() -> None:
    """Unknown keys of a configuration were ignored and missing ones read as nothing, so that a slip changed a run."""
    with pytest.raises(ValidationError, match="save_interval"):
        TrainingSection.model_validate({"save_interval": 10})
    with pytest.raises(ValidationError, match="method"):
        Head.model_validate({"name": "run"})


def test_no_environment_variable_is_written(make_roles: Callable[[], Trunk], tmp_path: Path) -> None:
    """All environment variables, keys among them, were written to a file in the folder of the results."""
    secret = f"key-{uniform_seed(1, 'nobody')}"
    script = "from poise.models.checkpoint import save_state; import pathlib, torch; save_state(pathlib.Path('c'), {})"
    env = {**os.environ, "SOME_API_KEY": secret}
    subprocess.run([sys.executable, "-c", script], env=env, cwd=tmp_path, check=True, timeout=120)
    os.environ["SOME_API_KEY"] = secret
    try:
        make_loop(make_roles).run(checkpoint=tmp_path / "c.safetensors", checkpoint_every=1)
    finally:
        del os.environ["SOME_API_KEY"]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 2 and not [path for path in files if secret.encode() in path.read_bytes()]
    package = Path(poise.__file__).parent
    dumped = ("dict(os.environ)", "os.environ.items()", "dumps(os.environ")
    sources = {path: path.read_text() for path in (package / "align").rglob("*.py")}
    assert not [path for path, source in sources.items() if any(word in source for word in dumped)]


def test_no_code_from_elsewhere_is_run_and_no_certificate_ignored() -> None:
    """`trust_remote_code=True` and `verify=False` were written into loaders and clients."""
    package = Path(poise.__file__).parent
    found = [
        (path.name, word)
        for room in ("align", "models", "preference", "llm", "data")
        for path in (package / room).rglob("*.py")
        for word in ("trust_remote_code=True", "verify=False", "pickle.load", "weights_only=False")
        if word in path.read_text()
    ]
    assert found == []


def dual() -> dict[str, Any]:
    """A row whose first response is safe, and whose second is called more helpful."""
    return {
        "prompt": "How are things?",
        "response_0": "I would rather not.",
        "response_1": "Things are as they are.",
        "is_response_0_safe": True,
        "is_response_1_safe": False,
        "better_response_id": 1,
        "safer_response_id": 0,
    }
