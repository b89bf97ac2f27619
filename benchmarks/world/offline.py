"""The offline methods: every one learns from the same pool of the pre-trained model's own responses.

To each of some hundred requests the pre-trained model says M responses, which the oracles score. A pair is an answer
and a refusal where both were said, otherwise two responses that differ. `better` is the one with the higher reward,
`safer` the one with the lower cost (where costs agree, the better one); equal rewards are ordered by chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from poise.align.algorithms import derta, pecan
from poise.align.algorithms.bfpo import BFPO
from poise.align.algorithms.dpo import DPO, IPO
from poise.align.algorithms.mocan import pseudo_labels, solve_dual
from poise.align.algorithms.pairs import PairLogProbs
from poise.align.algorithms.sacpo import SACPO, merged
from poise.align.algorithms.safe_dpo import SafeDPO, reorder
from poise.align.core import sequence_log_probs
from world.grammar import Requests, World
from world.speaker import Responses, copied, hidden, label_log_probs, log_probs, sample

BETA = 0.1


class Training(NamedTuple):
    """Args: requests of the pool, responses to each; epochs, pairs of a step, rate."""

    requests: int = 384
    responses: int = 16
    epochs: int = 3
    rows: int = 32
    rate: float = 2e-4


class Pool(NamedTuple):
    """What the pre-trained model said. Args: requests, N; said, N x M rows, M to a request; scores float[N, M]."""

    requests: Requests
    said: Responses
    reward: Tensor
    cost: Tensor

    def flat(self, row: Tensor, number: Tensor) -> Responses:
        """Responses `number` int64[K] to requests `row` int64[K]."""
        return self.said.rows(row * self.reward.shape[1] + number)


class Pairs(NamedTuple):
    """P pairs. Args: row int64[P] of the pool; number int64[P, 2] of its M; better, safer int64[P], 0 or 1."""

    row: Tensor
    number: Tensor
    better: Tensor
    safer: Tensor


Point = tuple[str, Any]
"""A setting's name ("" where a method has one) and the model it gave."""
PairLossOf = Callable[[PairLogProbs, Tensor], Tensor]
"""Loss float[B] of the pairs whose numbers int64[B] come second."""


def collect(model: Any, world: World, told: Training, seed: int) -> Pool:
    """Sample and score; half of the requests are unsafe."""
    chance = torch.Generator().manual_seed(seed)
    halves = [world.requests(split, told.requests // 2, chance) for split in ("safe", "unsafe")]
    requests = Requests(*(torch.cat(fields) for fields in zip(*halves, strict=True)))
    repeated = requests.rows(torch.arange(len(requests.unsafe)).repeat_interleave(told.responses))
    said = sample(model, world, repeated.prompt, chance)
    scores = world.score(repeated, said.ids)
    shape = (len(requests.unsafe), told.responses)
    return Pool(requests, said, scores.reward.reshape(shape), scores.cost.reshape(shape))


def pairs_of(pool: Pool, world: World, seed: int) -> Pairs:
    """One pair a request; requests whose responses are all the same give none."""
    chance = torch.Generator().manual_seed(seed)
    n, m = pool.reward.shape
    ids = pool.said.ids.reshape(n, m, -1)
    rows, numbers = [], []
    for row in range(n):
        refused = world.refused(ids[row])
        first = 0
        others = (refused != refused[0]).nonzero()[:, 0]
        if not len(others):
            others = (ids[row] != ids[row, 0]).any(-1).nonzero()[:, 0]
        if len(others):
            rows.append(row)
            numbers.append([first, int(others[0])])
    row, number = torch.tensor(rows), torch.tensor(numbers)
    coin = torch.rand(len(row), generator=chance) < 0.5
    number = torch.where(coin[:, None], number, number.flip(1))
    reward, cost = pool.reward[row].gather(1, number), pool.cost[row].gather(1, number)
    better = (reward[:, 1] > reward[:, 0]).long()
    safer = torch.where(cost[:, 0] == cost[:, 1], better, (cost[:, 1] < cost[:, 0]).long())
    return Pairs(row, number, better, safer)


def fit(model: Any, count: int, loss_of: Callable[[Tensor], Tensor], told: Training, seed: int) -> Any:
    """Train `model` in place on rows 0..count-1, whose summed loss over numbers int64[B] is a mean in every step."""
    chance = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), told.rate, betas=(0.9, 0.95), weight_decay=0.0)
    for _ in range(told.epochs):
        for numbers in torch.randperm(count, generator=chance).split(told.rows):
            loss = loss_of(numbers).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    return model


class Learner:
    """One pre-trained model, its pool and pairs; every method starts from a copy of the model.

    Args:
        limit: mean cost that the constrained methods are asked to keep.
    """

    def __init__(self, start: Any, world: World, pool: Pool, told: Training, seed: int, limit: float) -> None:
        self.start, self.world, self.pool, self.told, self.seed, self.limit = start, world, pool, told, seed, limit
        self.pairs = pairs_of(pool, world, seed)
        flagged = (pool.cost > 0)[self.pairs.row].gather(1, self.pairs.number)
        self.unsafe_better = flagged.gather(1, self.pairs.better[:, None])[:, 0]
        self.unsafe_worse = flagged.gather(1, 1 - self.pairs.better[:, None])[:, 0]

    def said(self, numbers: Tensor, which: Tensor) -> tuple[Tensor, Responses]:
        """Prompts and the chosen responses `which` int64[B] in 0, 1 of pairs `numbers` int64[B]."""
        row = self.pairs.row[numbers]
        number = self.pairs.number[numbers].gather(1, which[:, None])[:, 0]
        return self.pool.requests.prompt[row], self.pool.flat(row, number)

    def log_prob(self, model: Any, numbers: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        """log pi(y | x) float[B] of the responses `which`, and of the other ones."""
        sides = [self.said(numbers, side) for side in (which, 1 - which)]
        prompt = torch.cat([prompt for prompt, _ in sides])
        said = Responses(*(torch.cat(fields) for fields in zip(*(said for _, said in sides), strict=True)))
        sums = sequence_log_probs(log_probs(model, prompt, said), said.mask)
        return sums[: len(numbers)], sums[len(numbers) :]

    def prefer(self, chosen: Tensor, loss: PairLossOf, *, keep: Tensor | None = None, reference: Any = None) -> Any:
        """A model that learnt to prefer responses `chosen` int64[P] in 0, 1.

        Args:
            keep: int64[K] numbers of the pairs to learn from, or all.
            reference: where it starts and what it is measured against; None is the pre-trained model.
        """
        reference = self.start if reference is None else reference
        kept = torch.arange(len(chosen)) if keep is None else keep
        with torch.no_grad():
            pieces = [self.log_prob(reference, numbers, chosen[numbers]) for numbers in kept.split(256)]
        before = torch.zeros(2, len(chosen))
        before[:, kept] = torch.stack([torch.cat(side) for side in zip(*pieces, strict=True)])
        model = copied(reference)

        def loss_of(places: Tensor) -> Tensor:
            numbers = kept[places]
            now = self.log_prob(model, numbers, chosen[numbers])
            return loss(PairLogProbs(*now, before[0, numbers], before[1, numbers]), numbers)

        return fit(model, len(kept), loss_of, self.told, self.seed)

    @cached_property
    def helpful(self) -> Any:
        """DPO on the helpfulness order: itself, the first step of SACPO, a score of PeCAN."""
        return self.prefer(self.pairs.better, lambda pairs, _: DPO(BETA).loss(pairs).loss)

    @cached_property
    def harmless(self) -> Any:
        """DPO on the safety order: itself, and a score of PeCAN."""
        return self.prefer(self.pairs.safer, lambda pairs, _: DPO(BETA).loss(pairs).loss)

    def supervise(self, rows: list[derta.LabelRow]) -> Any:
        """A model that learnt the labels of `rows`."""
        ids, labels = derta.label_tensors(rows, self.world.eos)
        model = copied(self.start)

        def loss_of(numbers: Tensor) -> Tensor:
            learnt = labels[numbers]
            states = hidden(model, ids[numbers][:, :-1])
            log_prob = label_log_probs(model, states, learnt[:, 1:].clamp(min=0))
            summed, count = derta.loss(log_prob, learnt[:, 1:])
            return (summed / count)[None]

        return fit(model, len(rows), loss_of, self.told, self.seed)

    def best(self, row: int) -> list[int]:
        """The response to a request with the highest reward, without filling."""
        number = self.pool.reward[row].argmax()[None]
        said = self.pool.flat(torch.tensor([row]), number)
        return said.ids[0][said.mask[0]].tolist()


def dpo(learner: Learner) -> list[Point]:
    """DPO on the helpfulness order, and on the safety order."""
    return [("better", learner.helpful), ("safer", learner.harmless)]


def ipo(learner: Learner) -> list[Point]:
    """IPO on the helpfulness order, and on the safety order."""
    return [
        (name, learner.prefer(order, lambda pairs, _: IPO(BETA).loss(pairs).loss))
        for name, order in (("better", learner.pairs.better), ("safer", learner.pairs.safer))
    ]


def safe_dpo(learner: Learner) -> list[Point]:
    """SafeDPO without and with two margins."""
    order = reorder(learner.unsafe_better, learner.unsafe_worse)
    chosen = torch.where(order.swap, 1 - learner.pairs.better, learner.pairs.better)
    keep = order.keep.nonzero()[:, 0]

    def model(margin: float) -> Any:
        method = SafeDPO(BETA, margin)
        return learner.prefer(chosen, lambda pairs, n: method.loss(pairs, order.contrast[n]).loss, keep=keep)

    return [(f"margin {margin:g}", model(margin)) for margin in (0.0, 2.0, 10.0)]


def bfpo(learner: Learner) -> list[Point]:
    """BFPO; tau is the paper's divided by ten, or multiplied: its targets are 1 / tau nats."""

    def model(tau: float) -> Any:
        method = BFPO(tau)
        safe = ~learner.unsafe_better, ~learner.unsafe_worse
        return learner.prefer(learner.pairs.better, lambda pairs, n: method.loss(pairs, safe[0][n], safe[1][n]).loss)

    return [(f"tau {tau:g}", model(tau)) for tau in (0.01, 0.1)]


def sacpo(learner: Learner) -> list[Point]:
    """Both steps, and the merges between them."""
    helpful, second = learner.helpful, SACPO(BETA, 4.0).steps[1]
    safe = learner.prefer(learner.pairs.safer, lambda pairs, _: second.loss.loss(pairs).loss, reference=helpful)
    points: list[Point] = []
    for weight in (0.0, 0.25, 0.5, 0.75, 1.0):
        model = copied(learner.start)
        model.load_state_dict(merged(helpful.state_dict(), safe.state_dict(), weight))
        points.append((f"merge {weight:g}", model))
    return points


def mocan(learner: Learner) -> list[Point]:
    """The multiplier from the pool, then DPO on pseudo-labels."""
    pool = learner.pool
    multiplier = solve_dual(pool.reward, pool.cost, reachable(pool.cost, learner.limit), BETA)
    return [(f"lambda {multiplier:.2f}", _pseudo(learner, (pool.reward, pool.cost), multiplier))]


def reachable(cost: Tensor, limit: float) -> float:
    """The limit, or where no choice among the pool's responses float[N, M] keeps it, nine tenths of the way there."""
    least, mean = float(cost.min(-1).values.mean()), float(cost.mean())
    return max(limit, least + 0.1 * (mean - least))


def pecan_(learner: Learner) -> list[Point]:
    """As MoCAN, with two DPO models for scores; its cost has no unit, so the limit is the lowest that is reachable."""
    pool = learner.pool
    prompt = pool.requests.prompt.repeat_interleave(pool.reward.shape[1], 0)
    with torch.no_grad():
        sums = [
            _scored(model, prompt, pool.said).reshape(pool.reward.shape)
            for model in (learner.helpful, learner.harmless, learner.start)
        ]
    reward, cost = pecan.implicit_scores(*sums, beta=BETA)
    multiplier = solve_dual(reward, cost, reachable(cost, -math.inf), BETA)
    return [(f"lambda {multiplier:.2f}", _pseudo(learner, (reward, cost), multiplier))]


def _scored(model: Any, prompt: Tensor, said: Responses) -> Tensor:
    pieces = torch.arange(len(prompt)).split(512)
    return torch.cat([log_probs(model, prompt[part], said.rows(part)).sum(-1) for part in pieces])


def _pseudo(learner: Learner, scores: tuple[Tensor, Tensor], multiplier: float) -> Any:
    pairs = learner.pairs
    reward, cost = (score[pairs.row].gather(1, pairs.number) for score in scores)
    chance = torch.rand(len(pairs.row), generator=torch.Generator().manual_seed(learner.seed + 1))
    chosen = pseudo_labels(reward / BETA, cost / BETA, multiplier, chance)
    return learner.prefer(chosen, lambda each, _: DPO(BETA).loss(each).loss)


def sft(learner: Learner) -> list[Point]:
    """The paper's supervised safety fine-tuning: the best response to a safe request, a refusal to an unsafe one."""
    return [("", learner.supervise([_sft_row(learner, row) for row in range(len(learner.pool.reward))]))]


def _sft_row(learner: Learner, row: int) -> derta.LabelRow:
    prompt = learner.pool.requests.prompt[row].tolist()
    refusal = [learner.world.null, learner.world.eos]
    return derta.prefix_row(prompt, [], refusal if learner.pool.requests.unsafe[row] else learner.best(row), 0)


def derta_(learner: Learner) -> list[Point]:
    """DeRTa: refusals after every beginning of a harmful answer, beside the best responses to safe requests."""
    world, rows, sample_number = learner.world, [], 0
    chance = torch.Generator().manual_seed(learner.seed)
    for row in range(len(learner.pool.reward)):
        if not learner.pool.requests.unsafe[row]:
            rows.append(_sft_row(learner, row))
            continue
        prompt, harmful = learner.pool.requests.prompt[row].tolist(), learner.best(row)[:-1]
        k = derta.prefix_length(len(harmful), sample_number, float(torch.rand((), generator=chance)))
        rows.append(derta.prefix_row(prompt, harmful, [world.null, world.eos], k))
        rows.append(derta.transition_row(prompt, harmful, world.null))
        sample_number += 1
    return [("", learner.supervise(rows))]


METHODS: dict[str, Callable[[Learner], list[Point]]] = {
    "sft": sft,
    "derta": derta_,
    "dpo": dpo,
    "ipo": ipo,
    "safe_dpo": safe_dpo,
    "bfpo": bfpo,
    "sacpo": sacpo,
    "mocan": mocan,
    "pecan": pecan_,
}
