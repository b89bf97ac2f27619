"""The split never parts a cluster, keeps the strata, and depends on nothing but texts and seed."""

from __future__ import annotations

import random
from collections import Counter, defaultdict

import pytest

from poise.data.neardup import clusters
from poise.data.rows import PromptRow, Provenance, text_id
from poise.data.seeds import load_seeds
from poise.data.split import leaks, split_by_prompt
from poise.errors import PoiseError


def prompt(text: str, **more: object) -> PromptRow:
    return PromptRow(id=text_id("p", text), prompt=text, provenance=Provenance(source="invented"), **more)


def test_a_cluster_is_never_parted() -> None:
    rows = [*load_seeds().prompts]
    rows += [prompt(row.prompt + "!", kind=row.kind, category=row.category) for row in rows]
    splits = split_by_prompt(rows, 0.3, seed=5)
    of_cluster = defaultdict(set)
    for cluster, row in zip(clusters([row.prompt for row in rows]).tolist(), rows, strict=True):
        of_cluster[cluster].add(splits[row.id])
    assert max(map(len, of_cluster.values())) == 1
    assert abs(Counter(splits.values())["test"] - 0.3 * len(rows)) <= 2
    assert leaks([row.model_copy(update={"split": splits[row.id]}) for row in rows]) == []


@pytest.mark.parametrize("share", [0.0, 0.1, 0.25, 0.5])
def test_share_is_met_over_all_and_about_met_in_each_stratum(share: float) -> None:
    rows = load_seeds().prompts
    splits = split_by_prompt(rows, share, seed=1)
    assert abs(Counter(splits.values())["test"] - share * len(rows)) <= 1
    strata: dict[tuple[str, str | None], list[str]] = defaultdict(list)
    for row in rows:
        strata[row.kind, row.category].append(splits[row.id])
    for members in strata.values():
        assert abs(members.count("test") - share * len(members)) <= 1.5


def test_same_for_any_order_another_for_another_seed() -> None:
    rows = load_seeds().prompts
    shuffled = random.Random(0).sample(rows, len(rows))
    assert split_by_prompt(rows, 0.2, 1) == split_by_prompt(shuffled, 0.2, 1)
    assert split_by_prompt(rows, 0.2, 1) != split_by_prompt(rows, 0.2, 2)


def test_leaks_names_a_train_and_a_test_prompt() -> None:
    train, test = prompt("Where do otters sleep at night?"), prompt("where do otters sleep at night", split="test")
    assert leaks([train, test, prompt("Name a river.", split="test")]) == [(train.id, test.id)]


def test_wrong_input_is_refused() -> None:
    with pytest.raises(PoiseError, match="test share"):
        split_by_prompt([], 1.0, 0)
    with pytest.raises(PoiseError, match="two texts"):
        split_by_prompt([prompt("a"), prompt("b").model_copy(update={"id": prompt("a").id})], 0.5, 0)
    assert split_by_prompt([], 0.5, 0) == {}
