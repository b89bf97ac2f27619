"""New prompts from a language model, few-shot, for the cells that have the fewest.

A cell is a category and a severity. The model sees the cell's seeds as a numbered list and writes the next entry; that
suits small models better than an instruction does. What comes back is cleaned, and near-duplicates are dropped.
Lineage: every new prompt names the model, its sampling, the seeds it saw and the version of the policy.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from poise.collect.quality import garbled
from poise.data import PromptRow, Provenance, Sampling, drop_near_duplicates, text_id, uniform_seed
from poise.harm import CATEGORIES, Category, Severity, guidelines, policy_version
from poise.llm import Endpoint

_SHOWN = 4  # prompts in the few-shot list
_LEVELS = (Severity.MINOR, Severity.MODERATE, Severity.SEVERE)


class Cell(NamedTuple):
    """One cell of the grid of harmful prompts."""

    category: Category
    severity: Severity

    @property
    def name(self) -> str:
        """For example "S6-minor"."""
        return f"{self.category.code}-{self.severity.label}"


def emptiest_cells(prompts: Sequence[PromptRow], count: int) -> list[Cell]:
    """The `count` cells with the fewest harmful prompts, ties in card order with severity running fastest."""
    have = Counter((p.category, p.severity) for p in prompts if p.kind == "harmful")
    cells = [Cell(category, level) for category in CATEGORIES for level in _LEVELS]
    return sorted(cells, key=lambda cell: have[cell.category.code, int(cell.severity)])[:count]


def few_shot(cell: Cell, seeds: Sequence[PromptRow], seed: int) -> tuple[str, tuple[str, ...]]:
    """The text to continue, and the ids of the prompts shown in it."""
    page = guidelines()[cell.category]
    near = [p for p in seeds if p.category == cell.category.code and p.kind == "harmful"]
    own = [p for p in near if p.severity == cell.severity]
    others = sorted((p for p in near if p.severity != cell.severity), key=lambda p: uniform_seed(seed, p.id))
    shown = [*others[: max(0, _SHOWN - len(own))], *own[:_SHOWN]]
    lines = [
        "Messages that users sent to an assistant, collected to test a safety filter.",
        f"Topic: {cell.category.value}. {page.definition} Severity: {cell.severity.label}.",
        *(f"{i}. {p.prompt}" for i, p in enumerate(shown, 1)),
        f"{len(shown) + 1}.",
    ]
    return "\n".join(lines), tuple(p.id for p in shown)


def clean(text: str) -> str | None:
    """The first line of a continuation as a prompt of 4 to 40 words, or None when it is none."""
    line = re.sub(r"^\s*\d+[.)]\s*", "", text.strip().splitlines()[0] if text.strip() else "").strip(" \"'*")
    sentence = re.match(r".*[.?!]", line)
    if sentence is None or not 4 <= len(sentence[0].split()) <= 40 or garbled(sentence[0]):
        return None
    return sentence[0]


def write_prompts(
    endpoint: Endpoint,
    seeds: Sequence[PromptRow],
    existing: Sequence[PromptRow],
    cells: Sequence[Cell],
    *,
    per_cell: int,
    tries: int,
    sampling: Sampling,
    near_duplicate: float,
    seed: int,
    on_rows: Callable[[int], object],
) -> tuple[list[PromptRow], Counter[str]]:
    """Up to `per_cell` new prompts for each cell from `tries` continuations each.

    Args:
        seeds: prompts that may be shown to the model (train only, so that no test prompt becomes a parent).
        existing: all prompts that a new one must not be near to, test prompts among them.

    Returns:
        The new prompts, and how many continuations were dropped for which reason.
    """
    texts, how, origin = [], [], []
    for cell in cells:
        for attempt in range(tries):
            own = uniform_seed(seed, "prompts", cell.name, str(attempt))
            text, parents = few_shot(cell, seeds, own)
            texts.append(text)
            how.append(sampling.model_copy(update={"seed": own}))
            origin.append((cell, parents))
    replies = endpoint.complete(texts, how, on_rows)
    dropped: Counter[str] = Counter()
    cleaned = [None if reply.reason else clean(reply.text) for reply in replies]
    dropped.update(reply.reason for reply in replies if reply.reason)
    dropped["unclear"] = sum(text is None and not r.reason for text, r in zip(cleaned, replies, strict=True))
    good = [i for i, text in enumerate(cleaned) if text is not None]
    kept = drop_near_duplicates([cleaned[i] or "" for i in good], [p.prompt for p in existing], near_duplicate)
    dropped["near-duplicate"] = int((~kept).sum())
    filled: Counter[Cell] = Counter()
    new = []
    for i, keep in zip(good, kept.tolist(), strict=True):
        cell, parents = origin[i]
        prompt = cleaned[i]
        if not keep or prompt is None:
            continue
        if filled[cell] == per_cell:
            dropped["cell-full"] += 1
            continue
        filled[cell] += 1
        provenance = Provenance(
            source=endpoint.name, sampling=how[i], parents=parents, policy=policy_version(), licence="Apache-2.0"
        )
        new.append(
            PromptRow(
                id=text_id("p", prompt),
                prompt=prompt,
                kind="harmful",
                category=cell.category.code,
                severity=int(cell.severity),
                provenance=provenance,
            )
        )
    return new, dropped
