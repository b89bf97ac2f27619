"""Poise's side of `benchmarks/align.py`: a worker that runs some optimizer steps each time it is told to.

With adapters it is the trainers of `poise align` that run, unchanged: `OfflineTraining` (dpo), `train_preference`
(reward and cost), `LocalLoop` (grpo). They train adapters; for all weights, which they leave to other models, the same
parts are put together here: packed rows, log-probabilities without logits, the losses of `align.algorithms`.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from poise.align.algorithms.dpo import DPO
from poise.align.algorithms.grpo_lagrangian import GRPOLagrangian
from poise.align.algorithms.pairs import PairLogProbs
from poise.align.engine import LocalLoop, LoopSettings, ScoreScale, online_roles
from poise.align.multiplier import LogMultiplier
from poise.align.train.batches import Store, encode_pairs, lay_out, pair_log_probs
from poise.align.train.data import TextPair
from poise.align.train.objectives import PairObjective
from poise.align.train.offline import OfflineTraining, Phase
from poise.align.train.recipe import TrainingSection
from poise.data.rows import Sampling
from poise.models import trunk as trunk_module
from poise.models.generate import Request, chat_ids, generate
from poise.models.packing import Group, Packed, pack_for, packed_log_probs
from poise.models.trunk import ScalarHead, Trunk
from poise.preference.losses import cost_loss, reward_loss
from poise.preference.pairs import Example, Pair, PreferenceData
from poise.preference.scorer import build_trunk
from poise.preference.training import PreferenceTraining, train_preference

WARM = 2
AT_ONCE = 32768 if torch.cuda.is_available() else 8192  # tokens of a batch
Task = dict[str, Any]


class Pace:
    """Stops after the steps that were asked for, until it is asked again."""

    def __init__(self) -> None:
        self.left, self.before = WARM, {"before": 0.0, "before_cpu": 0.0}
        self.trained = self.of_rows = 0
        self.parts: dict[str, float] = {}
        self.clock()

    def clock(self) -> None:
        """Start."""
        self.began, self.cpu = time.perf_counter(), time.process_time()

    def taken(self) -> tuple[float, float]:
        """Wall and CPU seconds since `clock`."""
        return time.perf_counter() - self.began, time.process_time() - self.cpu

    def prepared(self) -> None:
        """What was done since `clock` is done once for all rows."""
        self.before = dict(zip(("before", "before_cpu"), self.taken(), strict=True))
        self.clock()

    def step(self) -> None:
        """After each step."""
        self.left -= 1
        if self.left:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds, cpu = self.taken()
        told = {"seconds": seconds, "cpu": cpu, **self.before, "trained": self.trained, "of_rows": self.of_rows}
        told |= {"peak_mib": peak(), "parts": self.parts}
        print("@@" + json.dumps(told), flush=True)
        self.left = int(sys.stdin.readline() or 0)
        if not self.left:
            os._exit(0)
        self.clock()


def peak() -> int:
    """Most memory yet, MiB: of the GPU where there is one, else of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() // 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 2**10


def messages(row: dict[str, str]) -> list[dict[str, str]]:
    """The prompt of a row."""
    return [{"role": "user", "content": row["prompt"]}]


def run_dpo(task: Task, pace: Pace) -> None:
    """`OfflineTraining`."""
    trunk = Trunk(task["model"], roles=("actor",), shared_layers=task["lora"], rank=8)
    pace.trained = sum(p.numel() for p in trunk.parameters_of("actor"))
    texts = [
        TextPair(str(at), messages(row), (row["chosen"], row["rejected"]), 0, None, (None, None))
        for at, row in enumerate(task["rows"])
    ]
    pairs = encode_pairs(trunk, texts, 128, 256).pairs
    settings = TrainingSection(
        epochs=200,
        learning_rate=1e-4,
        pairs_per_step=task["per_step"],
        pairs_per_batch=task["per_step"],
        save_every=10**9,
    )
    folder = Path(tempfile.mkdtemp())

    def begin() -> PairObjective:
        store = Store(trunk, pairs, folder, settings.cache_mb * 2**20)
        return PairObjective(
            store, dict.fromkeys(range(len(pairs)), 0), lambda logs, _: DPO(0.1).loss(logs), [False] * len(pairs)
        )

    def on_step(_: str, done: int, total: int, loss: float) -> None:
        if done:
            pace.step()
        else:
            pace.prepared()

    if torch.cuda.is_available():  # loading kernels is no part of an epoch
        layout = lay_out(pairs[: task["per_step"]], trunk.device)
        pair_log_probs(trunk, [trunk.lower(part.ids, part) for part in layout.parts], layout, "actor").sum().backward()
        trunk.zero_grad()
    pace.clock()
    OfflineTraining(trunk, [Phase("actor", begin)], settings, 0, checkpoint=folder / "state", on_step=on_step).run()


def run_reward(task: Task, pace: Pace) -> None:
    """`train_preference`: one adapter with both heads; the rejected response is the unsafe one."""
    trunk = build_trunk(task["model"], shared=True, adapted_layers=task["layers"] - task["lora"], rank=8, seed=0)
    pace.trained = sum(p.numel() for p in trunk.parameters() if p.requires_grad)
    examples, pairs = [], []
    for at, group in enumerate(tokenized(trunk, task)):
        for number, response in enumerate(group.responses):
            examples.append(Example(list(group.prompt), list(response), bool(number)))
        pairs.append(Pair((2 * at, 2 * at + 1), 0, 0, "boundary"))
    data = PreferenceData(examples, pairs, [[at] for at in range(len(pairs))])
    settings = PreferenceTraining(200, task["per_step"], 1e-4, 0.001, 0, max_tokens=AT_ONCE)
    train_preference(trunk, data, settings, on_step=lambda step, losses: pace.step())


def run_grpo(task: Task, pace: Pace) -> None:
    """`LocalLoop`, with its reward and its cost model and its reference."""
    algorithm = GRPOLagrangian()
    roles = online_roles(algorithm)
    trunk = Trunk(task["model"], roles=roles, scalar_roles=roles[1:], shared_layers=task["lora"], rank=8)
    pace.trained = sum(p.numel() for p in trunk.parameters_of("actor"))
    settings = LoopSettings(
        steps=10**6, prompts_per_step=task["per_step"], responses_per_prompt=task["samples"],
        max_new_tokens=task["new_tokens"], temperature=1.0, actor_learning_rate=1e-4, critic_learning_rate=1e-4,
        updates_per_rollout=1, rows_per_batch=task["per_step"] * task["samples"], ratio_clip=0.2, value_clip=5.0,
        center_advantages=False, seed=0,
    )  # fmt: skip
    prompts = [(str(at), chat_ids(trunk, messages(row))) for at, row in enumerate(task["rows"])]
    loop = LocalLoop(trunk, prompts, algorithm, LogMultiplier(), ScoreScale(), settings)
    state = Path(tempfile.mkdtemp()) / "state"

    def on_step(row: dict[str, Any]) -> None:
        for part in ("rollout", "scoring", "update"):
            pace.parts[part] = pace.parts.get(part, 0.0) + row[f"seconds_{part}"]
        pace.step()

    loop.run(checkpoint=state, checkpoint_every=10**9, on_step=on_step)


def tokenized(trunk: Trunk, task: Task) -> list[Group]:
    """Prompts with both answers."""
    tokens, end = trunk.tokenizer, [trunk.tokenizer.eos_token_id]
    return [
        Group(chat_ids(trunk, messages(row)), [tokens(row[name])["input_ids"] + end for name in ("chosen", "rejected")])
        for row in task["rows"]
    ]


class Whole:
    """All weights trained."""

    def __init__(self, task: Task, pace: Pace) -> None:
        self.task, self.trunk, self.number = task, Trunk(task["model"]), 0
        width = self.trunk.model.config.hidden_size
        self.heads = nn.ModuleDict({name: ScalarHead(width) for name in ("reward", "cost")}).to(self.trunk.device)
        heads = self.heads.parameters() if task["method"] == "reward" else ()
        self.parameters = [*self.trunk.model.parameters(), *heads]
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        pace.trained = sum(p.numel() for p in self.parameters)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, weight_decay=0.0, fused=True)
        self.groups, self.multiplier = tokenized(self.trunk, task), LogMultiplier()
        if task["method"] == "dpo":
            pace.clock()
            with torch.inference_mode():
                parts = [self.sums(self.groups[at : at + 32]) for at in range(0, len(self.groups), 32)]
            self.reference = torch.cat(parts).reshape(-1, 2).clone()
            pace.prepared()
        pace.clock()
        for rows in order(len(self.groups), task["per_step"]):
            getattr(self, f"_{task['method']}")(rows)
            self.number += 1
            pace.step()

    def states(self, packed: Packed) -> Tensor:
        """Final hidden states [B, T, H]."""
        inputs = packed.inputs(self.trunk.model)
        hidden: Tensor = self.trunk.decoder(input_ids=packed.ids, **inputs).last_hidden_state
        return hidden

    def sums(self, groups: Sequence[Group]) -> Tensor:
        """log pi(y | x) of all responses in order, float[R]."""
        packs = pack_for(self.trunk, groups, AT_ONCE)
        values = [packed.sums(packed_log_probs(self.trunk, packed, self.states(packed))) for packed in packs]
        return torch.cat(values)[torch.cat([packed.numbers for packed in packs]).argsort()]

    def descend(self, loss: Tensor) -> None:
        """One optimizer step."""
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()

    def _dpo(self, rows: list[int]) -> None:
        policy, reference = self.sums([self.groups[at] for at in rows]).reshape(-1, 2), self.reference[rows]
        pairs = PairLogProbs(policy[:, 0], policy[:, 1], reference[:, 0], reference[:, 1])
        self.descend(DPO(0.1).loss(pairs).loss.mean())

    def _reward(self, rows: list[int]) -> None:
        """Both heads; the rejected response is the unsafe one."""
        packs = pack_for(self.trunk, [self.groups[at] for at in rows], AT_ONCE)
        last = torch.cat([self.states(packed).flatten(0, 1)[packed.last] for packed in packs]).float()
        last = last[torch.cat([packed.numbers for packed in packs]).argsort()]
        reward, cost = (self.heads[name](last)[:, 0].reshape(-1, 2) for name in ("reward", "cost"))
        ones = torch.ones_like(reward[:, 0])
        losses = reward_loss(reward[:, 0], reward[:, 1]), cost_loss(cost[:, 0], cost[:, 1], -ones, ones)
        self.descend(losses[0].loss + losses[1].loss)

    def _grpo(self, rows: list[int]) -> None:
        """Without a KL term and with one update to a rollout, so that old and new probabilities are the same."""
        trunk, samples, prompts = self.trunk, self.task["samples"], [self.groups[at].prompt for at in rows]
        how = Sampling(temperature=1.0, max_new_tokens=self.task["new_tokens"])
        requests = [
            Request(prompt, how.model_copy(update={"seed": hash((self.number, at, sample)) % 2**31}))
            for at, prompt in enumerate(prompts)
            for sample in range(samples)
        ]
        sampled, end = generate(trunk, requests), [trunk.tokenizer.eos_token_id]
        answers = [each.ids + end if each.finished or not each.ids else each.ids for each in sampled]
        texts = [trunk.tokenizer.decode(each.ids).lower() for each in sampled]
        reward, cost = (
            torch.tensor([float(sum(word in text for word in self.task[words])) for text in texts], device=trunk.device)
            for words in ("reward_words", "cost_words")
        )
        self.multiplier.update(cost.tolist())
        algorithm = GRPOLagrangian(kl=0.0)
        group = torch.arange(len(rows), device=trunk.device).repeat_interleave(samples)
        advantage = algorithm.advantage(reward, cost, group, self.multiplier.value)
        groups = [Group(prompt, answers[at * samples : (at + 1) * samples]) for at, prompt in enumerate(prompts)]
        losses = []
        for packed in pack_for(trunk, groups, AT_ONCE):
            log_prob, mask = packed.padded(packed_log_probs(trunk, packed, self.states(packed)))
            old = log_prob.detach()
            losses.append(algorithm.loss(log_prob, old, old, advantage[packed.numbers], mask) * len(packed.last))
        self.descend(torch.stack(losses).sum() / len(answers))


def order(count: int, size: int) -> Iterator[list[int]]:
    """Rows of each step, shuffled anew each epoch."""
    for epoch in itertools.count():
        rows = list(range(count))
        random.Random(epoch).shuffle(rows)
        yield from (rows[at : at + size] for at in range(0, count - size + 1, size))


def main() -> None:
    """Answer commands."""
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(task["threads"])
    if task["precision"] == "fp32":
        trunk_module.frozen_dtype = lambda device: torch.float32
    pace = Pace()
    pace.of_rows = len(task["rows"])
    run = {"dpo": run_dpo, "reward": run_reward, "grpo": run_grpo}[task["method"]]
    (Whole if task["lora"] is None else run)(task, pace)


if __name__ == "__main__":
    main()
