"""Train and test, split by prompt cluster: no test prompt has a near-duplicate in train.

A split by row leaks, because one prompt has several responses and several wordings. Clusters are shared out within
each stratum (kind, category) in an order that is a hash of the seed and the cluster's text, so the result depends
neither on the order of rows nor on ids.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from poise.data.neardup import clusters
from poise.data.rows import PromptRow, Split, uniform_seed
from poise.errors import PoiseError


def split_by_prompt(prompts: Sequence[PromptRow], test_share: float, seed: int) -> dict[str, Split]:
    """Split of each prompt id.

    The share is met for all prompts together and, as far as whole clusters allow, within each (kind, category):
    what one stratum could not give, the next one does.

    Args:
        prompts: N prompts in any order.
        test_share: wanted share of test prompts, 0 <= share < 1.
        seed: another seed, another split.

    Raises:
        PoiseError: the share is out of range, or one id stands for two texts.
    """
    if not 0 <= test_share < 1:
        raise PoiseError(f"test share {test_share}", do="give a share from 0 up to but not including 1")
    ordered = sorted({row.id: row for row in prompts}.values(), key=lambda row: (row.prompt, row.id))
    if len({(row.id, row.prompt) for row in prompts}) > len(ordered):
        raise PoiseError("one prompt id stands for two texts", do="make ids from texts with text_id")
    strata: dict[tuple[str, str], list[list[PromptRow]]] = defaultdict(list)
    for members in _cluster_rows(ordered):
        strata[members[0].kind, members[0].category or ""].append(members)

    splits: dict[str, Split] = {}
    owed = 0.0  # test prompts the strata so far still owe to the share
    for stratum in sorted(strata):
        groups = sorted(strata[stratum], key=lambda g: (uniform_seed(seed, g[0].prompt, "split"), g[0].id))
        owed += test_share * sum(len(group) for group in groups)
        for group in groups:
            test = len(group) / 2 <= owed
            owed -= len(group) if test else 0
            splits.update((row.id, "test" if test else "train") for row in group)
    return splits


def leaks(prompts: Sequence[PromptRow]) -> list[tuple[str, str]]:
    """Pairs (train prompt id, test prompt id), one for each near-duplicate cluster that lies in both splits.

    Empty is what it should be. Reads the split each row carries.
    """
    found = []
    for members in _cluster_rows(prompts):
        first = {row.split: row.id for row in reversed(members)}
        if len(first) == 2:
            found.append((first["train"], first["test"]))
    return found


def _cluster_rows(prompts: Sequence[PromptRow]) -> list[list[PromptRow]]:
    groups: dict[int, list[PromptRow]] = defaultdict(list)
    for cluster, row in zip(clusters([row.prompt for row in prompts]).tolist(), prompts, strict=True):
        groups[cluster].append(row)
    return list(groups.values())
