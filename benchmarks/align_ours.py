"""Poise's side of `benchmarks/align.py`: the same worker as `align_trl.py`, on trunk, packed rows and pure losses."""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from poise.align.algorithms.dpo import DPO
from poise.align.algorithms.grpo_lagrangian import GRPOLagrangian
from poise.align.algorithms.pairs import PairLogProbs
from poise.align.multiplier import LogMultiplier
from poise.data.rows import Sampling
from poise.models import trunk as trunk_module
from poise.models.generate import Request, chat_ids, generate
from poise.models.packing import Group, Packed, pack_for, packed_log_probs
from poise.models.trunk import REFERENCE, ScalarHead, Trunk
from poise.preference.losses import cost_loss, reward_loss

WARM = 2
AT_ONCE = 8192  # tokens of a batch


class Policy:
    """A trunk with one adapter, or with all its weights trained. Args: task as `align.py` writes it."""

    def __init__(self, task: dict[str, Any]) -> None:
        if task["precision"] == "fp32":
            trunk_module.frozen_dtype = lambda device: torch.float32
        self.whole = task["lora"] is None
        roles = () if self.whole else ("actor",)
        self.trunk = Trunk(task["model"], roles=roles, shared_layers=0 if self.whole else task["lora"], rank=8)
        width = self.trunk.model.config.hidden_size
        self.heads = {name: ScalarHead(width) for name in ("reward", "cost")}
        body = self.trunk.model.parameters() if self.whole else self.trunk.parameters_of("actor")
        heads = [p for head in self.heads.values() for p in head.parameters()] if task["method"] == "reward" else []
        self.parameters: list[nn.Parameter] = [*body, *heads]
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=1e-4, weight_decay=0.0, fused=True)

    def states(self, packed: Packed, role: str = "actor") -> Tensor:
        """Final hidden states [B, T, H]."""
        if self.whole:
            inputs = packed.inputs(self.trunk.model)
            hidden: Tensor = self.trunk.decoder(input_ids=packed.ids, **inputs).last_hidden_state
            return hidden
        return self.trunk.upper(self.trunk.lower(packed.ids, packed), role, packed)

    def sums(self, groups: Sequence[Group], role: str = "actor") -> Tensor:
        """log pi(y | x) of all responses in order, float[R]."""
        packs = pack_for(self.trunk, groups, AT_ONCE)
        values = [packed.sums(packed_log_probs(self.trunk, packed, self.states(packed, role))) for packed in packs]
        return torch.cat(values)[torch.cat([packed.numbers for packed in packs]).argsort()]

    def descend(self, loss: Tensor) -> None:
        """One optimizer step."""
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()


def order(count: int, size: int) -> Iterator[list[int]]:
    """Rows of each step, shuffled anew each epoch."""
    for epoch in itertools.count():
        rows = list(range(count))
        random.Random(epoch).shuffle(rows)
        yield from (rows[at : at + size] for at in range(0, count - size + 1, size))


class Worker:
    """One task. Attributes: before: seconds of what is computed once for all rows."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.task, self.policy = task, Policy(task)
        tokenizer = self.policy.trunk.tokenizer
        self.prompts = [
            chat_ids(self.policy.trunk, [{"role": "user", "content": row["prompt"]}]) for row in task["rows"]
        ]
        self.groups = [
            Group(
                prompt,
                [[*tokenizer(row[name])["input_ids"], tokenizer.eos_token_id] for name in ("chosen", "rejected")],
            )
            for prompt, row in zip(self.prompts, task["rows"], strict=True)
        ]
        self.steps = order(len(self.groups), task["per_step"])
        self.before, self.before_cpu, self.number = 0.0, 0.0, 0
        self.multiplier = LogMultiplier(threshold=0.1)
        if task["method"] == "dpo":
            began, cpu = time.perf_counter(), time.process_time()
            with torch.inference_mode():
                parts = [
                    self.policy.sums(self.groups[at : at + 32], REFERENCE) for at in range(0, len(self.groups), 32)
                ]
            self.reference = torch.cat(parts).reshape(-1, 2).clone()
            self.before = time.perf_counter() - began
            self.before_cpu = time.process_time() - cpu

    def step(self) -> None:
        """One optimizer step."""
        getattr(self, f"_{self.task['method']}")(next(self.steps))
        self.number += 1

    def _dpo(self, rows: list[int]) -> None:
        policy, reference = self.policy.sums([self.groups[at] for at in rows]).reshape(-1, 2), self.reference[rows]
        pairs = PairLogProbs(policy[:, 0], policy[:, 1], reference[:, 0], reference[:, 1])
        self.policy.descend(DPO(0.1).loss(pairs).loss.mean())

    def _reward(self, rows: list[int]) -> None:
        """Both heads; the rejected response is the unsafe one."""
        packs = pack_for(self.policy.trunk, [self.groups[at] for at in rows], AT_ONCE)
        last = torch.cat([self.policy.states(packed).flatten(0, 1)[packed.last] for packed in packs]).float()
        last = last[torch.cat([packed.numbers for packed in packs]).argsort()]
        reward, cost = (self.policy.heads[name](last)[:, 0].reshape(-1, 2) for name in ("reward", "cost"))
        ones = torch.ones(len(rows))
        losses = reward_loss(reward[:, 0], reward[:, 1]), cost_loss(cost[:, 0], cost[:, 1], -ones, ones)
        self.policy.descend(losses[0].loss + losses[1].loss)

    def _grpo(self, rows: list[int]) -> None:
        """Without a KL term and with one update to a rollout, so that old and new probabilities are the same."""
        trunk, samples = self.policy.trunk, self.task["samples"]
        how = Sampling(temperature=1.0, max_new_tokens=self.task["new_tokens"])
        requests = [
            Request(self.prompts[at], how.model_copy(update={"seed": hash((self.number, at, sample)) % 2**31}))
            for at in rows
            for sample in range(samples)
        ]
        sampled = generate(trunk, requests, role=REFERENCE if self.policy.whole else "actor")
        end = [trunk.tokenizer.eos_token_id]
        answers = [each.ids + end if each.finished or not each.ids else each.ids for each in sampled]
        texts = [trunk.tokenizer.decode(each.ids).lower() for each in sampled]
        reward, cost = (
            torch.tensor([float(sum(word in text for word in self.task[words])) for text in texts])
            for words in ("reward_words", "cost_words")
        )
        self.multiplier.update(cost.tolist())
        algorithm = GRPOLagrangian(kl=0.0)
        group = torch.arange(len(rows)).repeat_interleave(samples)
        advantage = algorithm.advantage(reward, cost, group, self.multiplier.value)
        groups = [Group(self.prompts[at], answers[i * samples : (i + 1) * samples]) for i, at in enumerate(rows)]
        losses = []
        for packed in pack_for(trunk, groups, AT_ONCE):
            log_prob, mask = packed.padded(packed_log_probs(trunk, packed, self.policy.states(packed)))
            old = log_prob.detach()
            losses.append(algorithm.loss(log_prob, old, old, advantage[packed.numbers], mask) * len(packed.last))
        self.policy.descend(torch.stack(losses).sum() / len(answers))


def main() -> None:
    """Answer commands."""
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    torch.set_num_threads(task["threads"])
    worker = Worker(task)
    trained = sum(p.numel() for p in worker.policy.parameters)
    steps = WARM
    while steps:
        began, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            worker.step()
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
        told = {
            "seconds": seconds,
            "cpu": cpu,
            "trained": trained,
            "before": worker.before,
            "before_cpu": worker.before_cpu,
        }
        print("@@" + json.dumps({**told, "of_rows": len(worker.groups)}), flush=True)
        steps = int(sys.stdin.readline() or 0)
    os._exit(0)


if __name__ == "__main__":
    main()
