"""Rollouts and what is measured on them: chance of its own for each prompt, scores at the end, values before tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from poise.align.engine.rollout import Responses, ScoreScale, measure, roll_out
from poise.align.engine.views import values_before, with_end
from poise.models.trunk import Tokens, Trunk, collate

CPU = torch.device("cpu")
PROMPTS = [(f"p-{i}", [1, 20 + i, 30, *range(40, 40 + i)]) for i in range(5)]


def rolled(trunk: Trunk, prompts: Any, *, step: int = 0, temperature: float = 1.0, rows: int = 1000) -> list[Tokens]:
    """A rollout of at most eight new tokens."""
    out = roll_out(trunk, prompts, seed=0, step=step, temperature=temperature, max_new_tokens=8, rows=rows)
    return [responses.tokens for responses in out]


def alone(tokens: Tokens) -> Responses:
    """Each response the only one to its prompt."""
    return Responses(tokens, torch.arange(len(tokens.ids)))


def texts(batches: list[Tokens]) -> list[tuple[list[int], int]]:
    """Each row without padding, and the length of its prompt."""
    return [(t.ids[i, : t.length[i]].tolist(), int(t.prompt_length[i])) for t in batches for i in range(len(t.ids))]


def test_rollout_ends_responses_that_ended_and_sorts_by_length(make_roles: Callable[[], Trunk]) -> None:
    trunk = make_roles()
    end, longest = trunk.tokenizer.eos_token_id, 8
    batches = rolled(trunk, PROMPTS, rows=2)
    assert [len(tokens.ids) for tokens in batches] == [2, 2, 1]
    lengths = [n for tokens in batches for n in tokens.length.tolist()]
    assert lengths == sorted(lengths)
    prompts = [ids for _, ids in PROMPTS]
    for row, at in texts(batches):
        assert row[:at] in prompts
        assert row[-1] == end or len(row) - at == longest
        assert end not in row[at:-1]


def test_a_response_keeps_the_end_token_that_was_sampled_and_is_scored_at_the_tokenizers(
    make_roles: Callable[[], Trunk],
) -> None:
    """Reward and cost models have learnt to judge at the tokenizer's end token."""
    trunk = make_roles()
    own, free = trunk.tokenizer.eos_token_id, texts(rolled(trunk, PROMPTS))
    end = next(row[at + 1] for row, at in free if len(row) - at > 2)
    trunk.model.generation_config.eos_token_id = [own, end]
    batches = rolled(trunk, PROMPTS)
    stopped = [(row, at) for row, at in texts(batches) if row[-1] == end]
    assert stopped and all(end not in row[at:-1] for row, at in texts(batches))
    row, at = stopped[0]
    mine = measure(trunk, alone(collate([row[:at]], [row[at:]], CPU)), ScoreScale()).experience
    ended = measure(trunk, alone(collate([row[:at]], [[*row[at:], own]], CPU)), ScoreScale()).experience
    torch.testing.assert_close(mine.reward, ended.reward)
    assert int(mine.mask.sum()) == len(row) - at and int(ended.mask.sum()) == len(row) - at + 1


def test_a_rollout_does_not_depend_on_order_or_batch(make_roles: Callable[[], Trunk]) -> None:
    trunk = make_roles()
    first = sorted(texts(rolled(trunk, PROMPTS)))
    assert first == sorted(texts(rolled(trunk, PROMPTS[::-1], rows=2)))
    assert first != sorted(texts(rolled(trunk, PROMPTS, step=1)))


def test_a_prompt_that_comes_twice_gets_two_responses(make_roles: Callable[[], Trunk]) -> None:
    trunk = make_roles()
    once = texts(rolled(trunk, PROMPTS[:1]))
    twice = texts(rolled(trunk, [PROMPTS[0], PROMPTS[0], PROMPTS[1]]))
    assert once[0] in twice and len({tuple(row) for row, _ in twice}) == 3


def test_log_probs_are_those_of_the_policy_that_acted(make_roles: Callable[[], Trunk]) -> None:
    """At temperature 2 the sampled tokens have the probabilities of softmax(logits / 2)."""
    trunk = make_roles()
    (tokens,) = rolled(trunk, PROMPTS, temperature=2.0)
    rollout = measure(trunk, alone(tokens), ScoreScale(), 2.0)
    with torch.no_grad(), trunk.role("actor"):
        logits = trunk.model(input_ids=rollout.tokens.ids).logits
    every = torch.log_softmax(logits[:, :-1] / 2, -1).gather(-1, rollout.tokens.ids[:, 1:, None])[..., 0]
    mask = rollout.experience.mask
    torch.testing.assert_close(rollout.experience.log_prob[mask], every[mask[:, 1:]], atol=1e-5, rtol=1e-5)


def test_with_end_appends_only_where_it_lacks() -> None:
    tokens = collate([[5], [5, 6]], [[7, 2], [8, 9]], CPU)
    ended = with_end(tokens, 2)
    assert ended.length.tolist() == [3, 5]
    assert ended.ids[0, :3].tolist() == [5, 7, 2] and ended.ids[1].tolist() == [5, 6, 8, 9, 2]
    assert tokens.ids.tolist() == [[5, 7, 2, 0], [5, 6, 8, 9]]


def test_a_cut_response_is_scored_as_if_it_ended_but_the_end_is_no_action(make_roles: Callable[[], Trunk]) -> None:
    trunk = make_roles()
    end = trunk.tokenizer.eos_token_id
    cut = measure(trunk, alone(collate([[5], [5, 6]], [[7, end], [8, 9]], CPU)), ScoreScale())
    ended = measure(trunk, alone(collate([[5], [5, 6]], [[7, end], [8, 9, end]], CPU)), ScoreScale())
    torch.testing.assert_close(cut.experience.reward, ended.experience.reward, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(cut.experience.cost, ended.experience.cost, atol=1e-6, rtol=1e-5)
    assert cut.experience.mask.sum(-1).tolist() == [2, 2] and ended.experience.mask.sum(-1).tolist() == [2, 3]
    kept = cut.experience.mask
    for got, expected in zip(cut.experience[2:6], ended.experience[2:6], strict=True):
        torch.testing.assert_close(got[kept], expected[:, : kept.shape[1]][kept], atol=1e-6, rtol=1e-5)
    assert not cut.experience.log_prob[~kept].any()


def test_measure_uses_scale_signs_and_critics(make_roles: Callable[[], Trunk]) -> None:
    """Reward (r - 0.1) / 2, cost c / 0.5; a critic that is a copy agrees with its model one token later."""
    trunk = make_roles()
    end = trunk.tokenizer.eos_token_id
    tokens = collate([[5], [5, 6]], [[7, end], [8, 9, end]], CPU)
    rollout = measure(trunk, alone(tokens), ScoreScale(0.1, 2.0, 0.5))
    with torch.no_grad():
        lower = rollout.lower
        raw = [trunk.score(lower, tokens.length, role) for role in ("reward", "cost")]
        after = trunk.values(trunk.upper(lower, "cost_critic"), "cost_critic")
    e = rollout.experience
    torch.testing.assert_close(e.reward, (raw[0] - 0.1) / 2)
    torch.testing.assert_close(e.cost, raw[1] / 0.5)
    torch.testing.assert_close(e.value_cost[:, 1:], after[:, :-1])
    torch.testing.assert_close(after[[0, 1], tokens.length - 1], raw[1])
    assert torch.equal(e.mask[:, :5], tokens.response) and not e.mask[:, 5:].any()
    assert torch.equal(values_before(trunk, torch.zeros(1, 3, 32), "cost_critic")[:, :1], torch.zeros(1, 1))


def test_responses_to_one_prompt_share_a_group(make_roles: Callable[[], Trunk]) -> None:
    trunk = make_roles()
    prompts = [p for p in PROMPTS[:3] for _ in range(2)]
    batches = roll_out(trunk, prompts, seed=0, step=0, temperature=1.0, max_new_tokens=8, rows=4, each=2)
    seen: dict[int, list[list[int]]] = {}
    for tokens, group in batches:
        for i, number in enumerate(group.tolist()):
            seen.setdefault(number, []).append(tokens.ids[i, : tokens.prompt_length[i]].tolist())
    assert sorted(len(members) for members in seen.values()) == [2, 2, 2]
    assert all(members[0] == members[1] for members in seen.values())
