"""What the actor does on prompts it doesn't train on, looked at every n steps.

Cost, violation rate, reward and KL on held-out prompts; refusals on harmless prompts that look harmful; a table of
samples to read. Chance is a hash of the evaluation's own seed and the prompt, never of the step: every look asks the
same question, and looking changes nothing about the training. Left out: judges and intervals (`poise.evaluate`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from poise.align.engine.constraints import Constraint
from poise.align.engine.rollout import Responses, Rollout, ScoreScale, measure
from poise.align.engine.views import shared_passes
from poise.collect.refusal import refuses
from poise.data.folders import disk_error
from poise.data.rows import Sampling, uniform_seed
from poise.errors import PoiseError
from poise.models.generate import Request, Sampled, generate
from poise.models.trunk import Trunk, collate

ROWS = "evaluation.jsonl"


class EvalPrompt(NamedTuple):
    """Args: id; text, as a person reads it; ids, with template and generation prompt."""

    id: str
    text: str
    ids: list[int]


class Evaluation(NamedTuple):
    """What is looked at, when, and where it is written.

    Args:
        prompts: held out; no prompt of the training is among them (the caller's part).
        benign: harmless prompts that look harmful; a refusal of one is an over-refusal. May be empty.
        every: steps between looks; the start and the end are looked at too.
        folder: gets `evaluation.jsonl` (a row a look), and `samples-<step>.jsonl` and `.txt`.
        temperature: 0 is greedy.
        samples: prompts of each kind in the tables, the first ones.
        rows: responses measured together, no effect on the result.
        refuses: whether a response declines.
    """

    prompts: Sequence[EvalPrompt]
    benign: Sequence[EvalPrompt]
    every: int
    folder: Path
    max_new_tokens: int = 64
    temperature: float = 0.0
    seed: int = 0
    samples: int = 20
    rows: int = 16
    refuses: Callable[[str], bool] = refuses


class Sample(NamedTuple):
    """One line of the table.

    Args:
        kind: "held-out" or "benign".
        cost, reward: scaled.
        refused: by the rule.
        further: costs of other cost models than the first, by role.
    """

    kind: str
    id: str
    prompt: str
    response: str
    cost: float
    reward: float
    kl: float
    tokens: int
    refused: bool
    further: Mapping[str, float] = {}


class Evaluator:
    """The looks of one run.

    Args:
        evaluation: what to look at.
        scale: of the scores, the training's.
        constraints: whose costs on the held-out prompts a row tells besides, as `cost_NAME`.

    Raises:
        PoiseError: no prompt, or numbers that make no sense.
    """

    def __init__(self, evaluation: Evaluation, scale: ScoreScale, constraints: Sequence[Constraint] = ()) -> None:
        if not evaluation.prompts:
            raise PoiseError("no prompt to evaluate on", where="evaluation", do="give held-out prompts")
        if evaluation.every < 1 or evaluation.max_new_tokens < 1 or evaluation.rows < 1 or evaluation.temperature < 0:
            raise PoiseError(
                f"every {evaluation.every}, max_new_tokens {evaluation.max_new_tokens}, rows {evaluation.rows}, "
                f"temperature {evaluation.temperature}",
                where="evaluation",
                do="give at least 1, and a temperature of at least 0",
            )
        self.evaluation, self.scale, self.constraints = evaluation, scale, tuple(constraints)
        self.rows: list[dict[str, float]] = []

    def due(self, step: int, steps: int) -> bool:
        """Whether the actor that has done `step` of `steps` steps is to be looked at, and was not."""
        wanted = step % self.evaluation.every == 0 or step == steps
        return wanted and all(row["step"] != step for row in self.rows)

    def look(self, trunk: Trunk, step: int) -> dict[str, float]:
        """Look once, write the files and return the row.

        Raises:
            PoiseError: a prompt can't be answered, a score is not a number, or the disk is full.
        """
        e = self.evaluation
        roles = ("cost", *dict.fromkeys(each.role for each in self.constraints if each.role != "cost"))
        held_out = samples_of(trunk, e, e.prompts, "held-out", self.scale, roles)
        benign = samples_of(trunk, e, e.benign, "benign", self.scale)
        row = {"step": float(step), **summary(held_out), **costs_of(self.constraints, held_out)}
        if benign:
            row["over_refusal"] = sum(sample.refused for sample in benign) / len(benign)
        if not all(math.isfinite(value) for value in row.values()):
            raise PoiseError("a score is not a number", where=f"evaluation at step {step}", exit_code=4)
        self.rows.append(row)
        self._write(step, [*held_out[: e.samples], *benign[: e.samples]])
        return row

    def _write(self, step: int, samples: Sequence[Sample]) -> None:
        folder, name = self.evaluation.folder, f"samples-{step:06d}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _replace(folder / f"{name}.jsonl", _lines([_plain(sample) for sample in samples]))
            _replace(folder / f"{name}.txt", table(step, samples))
            _replace(folder / ROWS, _lines(self.rows))
        except OSError as error:
            raise disk_error(error, folder) from error


def samples_of(
    trunk: Trunk,
    evaluation: Evaluation,
    prompts: Sequence[EvalPrompt],
    kind: str,
    scale: ScoreScale,
    costs: Sequence[str] = ("cost",),
) -> list[Sample]:
    """One response to each prompt with its scores, in the order of the prompts; no critic is run."""
    e = evaluation
    requests = [
        Request(
            prompt.ids,
            Sampling(
                temperature=e.temperature,
                max_new_tokens=e.max_new_tokens,
                seed=uniform_seed(e.seed, "evaluation", prompt.id),
            ),
        )
        for prompt in prompts
    ]
    sampled = generate(trunk, requests, role="actor")
    for prompt, answer in zip(prompts, sampled, strict=True):
        if answer.reason is not None:
            what = f"a prompt of {len(prompt.ids)} tokens can't be answered ({answer.reason})"
            raise PoiseError(what, where=f"evaluation prompt {prompt.id}", do="leave it out")
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].ids) + len(sampled[i].ids))
    samples: dict[int, Sample] = {}
    for at in range(0, len(order), e.rows):
        part = order[at : at + e.rows]
        rollout = _measured(trunk, [(prompts[i], sampled[i]) for i in part], scale, costs)
        x = rollout.experience
        divergence = ((x.log_prob - x.reference_log_prob) * x.mask).sum(-1)
        for place, i in enumerate(part):
            text = trunk.tokenizer.decode(sampled[i].ids, skip_special_tokens=True)
            samples[i] = Sample(
                kind,
                prompts[i].id,
                prompts[i].text,
                text,
                float(x.cost[place]),
                float(x.reward[place]),
                float(divergence[place]),
                len(sampled[i].ids),
                e.refuses(text),
                {role: float(rollout.cost_of(role)[place]) for role in costs[1:]},
            )
    return [samples[i] for i in range(len(prompts))]


def _measured(
    trunk: Trunk, rows: Sequence[tuple[EvalPrompt, Sampled]], scale: ScoreScale, costs: Sequence[str]
) -> Rollout:
    """Scores and log-probabilities at temperature 1, the end token counted where the response ended."""
    tokens = collate([prompt.ids for prompt, _ in rows], [s.whole for _, s in rows], trunk.device)
    alone = torch.arange(len(rows), device=trunk.device)
    passes = shared_passes(trunk, ("reward", *costs))
    return measure(trunk, Responses(tokens, alone), scale, costs=costs, critics=(), passes=passes)


def costs_of(constraints: Sequence[Constraint], samples: Sequence[Sample]) -> dict[str, float]:
    """Mean cost of the samples that each constraint speaks of, as `cost_NAME`; nothing of one that speaks of none."""
    row = {}
    for each in constraints:
        spoken = [s for s in samples if each.prompts is None or s.id in each.prompts]
        costs = [s.further.get(each.role, s.cost) for s in spoken]
        if costs:
            row[f"cost_{each.name}"] = math.fsum(costs) / len(costs)
    return row


def summary(samples: Sequence[Sample]) -> dict[str, float]:
    """Means over samples; cost >= 0 violates, as in training; KL of the responses in nats."""
    count = len(samples)
    return {
        "reward": math.fsum(sample.reward for sample in samples) / count,
        "cost": math.fsum(sample.cost for sample in samples) / count,
        "violation_rate": sum(sample.cost >= 0 for sample in samples) / count,
        "kl": math.fsum(sample.kl for sample in samples) / count,
        "response_tokens": sum(sample.tokens for sample in samples) / count,
    }


def table(step: int, samples: Sequence[Sample]) -> str:
    """The samples as plain text."""
    parts = [f"Step {step}: {len(samples)} samples. A cost below 0 is safe."]
    for sample in samples:
        verdict = ", refused" if sample.refused else ""
        parts.append(
            f"[{sample.kind}] {sample.id}  cost {sample.cost:+.2f}, reward {sample.reward:+.2f}{verdict}\n"
            f"  > {sample.prompt}\n" + "\n".join(f"    {line}" for line in sample.response.splitlines() or ["(empty)"])
        )
    return "\n\n".join(parts) + "\n"


def _plain(sample: Sample) -> dict[str, Any]:
    return {name: value for name, value in sample._asdict().items() if name != "further" or value}


def _lines(rows: Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _replace(path: Path, text: str) -> None:
    """Write whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_text(text, encoding="utf-8", newline="\n")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
