"""What the preference models learn from: tokenised responses and the pairs between them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from poise.data import Judgement, PairRow, QARow, uniform_seed
from poise.models.generate import chat_ids
from poise.models.trunk import Trunk


class Example(NamedTuple):
    """One response in tokens.

    Args:
        prompt, response: token ids, the end token included.
        unsafe: None if unknown.
        severity: 0..3, None if unknown.
        name: says in a message which row it is.
    """

    prompt: list[int]
    response: list[int]
    unsafe: bool | None
    severity: int | None = None
    name: str = ""


class Pair(NamedTuple):
    """Rows of two examples of one prompt, which of them (0 or 1) is better and safer, None when not judged.

    `rung` says what separates them in harm: "boundary" (one is safe), "severity", "categories" or "none".
    """

    rows: tuple[int, int]
    better: int | None
    safer: int | None
    rung: str


@dataclass(frozen=True)
class PreferenceData:
    """Examples, and what is learnt from them.

    Args:
        examples: all responses.
        pairs: of two examples of one prompt each.
        prompts: the pairs of each prompt, in order of first appearance.
        alone: the examples of each prompt that stand in no cost pair and whose label is learnt; empty where there are
            none at all.
    """

    examples: list[Example]
    pairs: list[Pair]
    prompts: list[list[int]]
    alone: list[list[int]] = field(default_factory=list)


class Step(NamedTuple):
    """What one step learns from. Args: indices of pairs, and of examples whose label is learnt without a pair."""

    pairs: list[int]
    alone: list[int]


def conversation(system: str, prompt: str) -> list[dict[str, str]]:
    """The one conversation template that actor, reward and cost model share; an empty system message is left out."""
    asked = {"role": "user", "content": prompt}
    return [{"role": "system", "content": system}, asked] if system else [asked]


def tokenize(
    trunk: Trunk, system: str, prompt: str, response: str, max_prompt: int, max_response: int
) -> tuple[list[int], list[int]]:
    """Token ids of the templated prompt (cut at its start) and of the response (cut at its end) with end token."""
    ids = chat_ids(trunk, conversation(system, prompt))
    answer = trunk.tokenizer(response, add_special_tokens=False)["input_ids"][:max_response]
    return ids[-max_prompt:], [*answer, trunk.tokenizer.eos_token_id]


def preference_data(
    trunk: Trunk,
    system: str,
    qa: Sequence[QARow],
    pairs: Sequence[PairRow],
    final: Mapping[str, Mapping[str, Judgement]],
    *,
    max_prompt: int,
    max_response: int,
) -> PreferenceData:
    """Tokenise the responses that occur in a judged pair.

    Args:
        final: question -> item -> the judgement that counts ("label", "safe", "better", "safer").
    """
    where: dict[str, int] = {}
    examples: list[Example] = []
    by_id = {row.id: row for row in qa}
    out: list[Pair] = []
    prompts: dict[str, list[int]] = defaultdict(list)
    for pair in pairs:
        better, safer = _choice(final["better"], pair.id), _choice(final["safer"], pair.id)
        unsafe = [_unsafe(final, item) for item in (pair.qa_0, pair.qa_1)]
        if safer is not None and None in unsafe:
            safer = None  # the sign terms of the cost loss need both labels
        if better is None and safer is None:
            continue
        for item, flag in zip((pair.qa_0, pair.qa_1), unsafe, strict=True):
            if item not in where:
                row = by_id[item]
                where[item] = len(examples)
                examples.append(
                    Example(*tokenize(trunk, system, row.prompt, row.response, max_prompt, max_response), flag)
                )
        prompts[pair.prompt_id].append(len(out))
        out.append(Pair((where[pair.qa_0], where[pair.qa_1]), better, safer, _rung(final, pair)))
    return PreferenceData(examples, out, list(prompts.values()))


def shuffled_batches(data: PreferenceData, prompts_per_step: int, epochs: int, seed: int) -> list[list[int]]:
    """Pair indices of every step; see `planned_steps`."""
    return [step.pairs for step in planned_steps(data, prompts_per_step, epochs, seed)]


def planned_steps(data: PreferenceData, prompts_per_step: int, epochs: int, seed: int) -> list[Step]:
    """All steps; what a prompt has comes together, prompts in a new order each epoch."""
    plan = []
    for epoch in range(epochs):
        order = sorted(range(len(data.prompts)), key=lambda i: uniform_seed(seed, "preference", str(epoch), str(i)))
        for at in range(0, len(order), prompts_per_step):
            chosen = order[at : at + prompts_per_step]
            pairs = [pair for i in chosen for pair in data.prompts[i]]
            plan.append(Step(pairs, [row for i in chosen for row in data.alone[i]] if data.alone else []))
    return plan


def _choice(judgements: Mapping[str, Judgement], item: str) -> int | None:
    judgement = judgements.get(item)
    return None if judgement is None or judgement.value is None else int(judgement.value)


def _unsafe(final: Mapping[str, Mapping[str, Judgement]], item: str) -> bool | None:
    safe = final.get("safe", {}).get(item)
    if safe is not None and safe.value is not None:
        return not safe.value
    label = final["label"].get(item)
    return None if label is None or label.value is None else not label.label().safe


def _rung(final: Mapping[str, Mapping[str, Judgement]], pair: PairRow) -> str:
    first, second = _unsafe(final, pair.qa_0), _unsafe(final, pair.qa_1)
    if first is not None and second is not None and first != second:
        return "boundary"
    labels = [final["label"].get(item) for item in (pair.qa_0, pair.qa_1)]
    known = [j.label() for j in labels if j is not None and j.value is not None]
    if len(known) < 2 or known[0] == known[1]:
        return "none"
    return "severity" if known[0].severity != known[1].severity else "categories"
