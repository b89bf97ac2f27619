"""Train and test, split by prompt cluster: no test prompt has a near-duplicate in train.

A split by row leaks, because one prompt has several responses and several wordings. Clusters are shared out within
each stratum (kind, category) in an order that is a hash of the seed and the cluster's text, so the result depends
neither on the order of rows nor on ids.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from poise.data.columns import TABLES, prompt_column
from poise.data.keys import (
    KeyMap,
    conversation_columns,
    conversations,
    distinct_conversations,
    response_keys,
    text_column,
)
from poise.data.neardup import clusters
from poise.data.rows import PromptRow, Split, uniform_seed
from poise.data.tables import Tables, TableWriter, open_tables
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


def split_tables(tables: Tables, out: Path, test_share: float, seed: int, *, replace: bool = False) -> Tables:
    """Tables in which every row says "train" or "test", decided by near-duplicate cluster of its conversation.

    Clusters go to test in the order of a hash of (seed, text) until the share of conversations is met. A split that the
    source gave is replaced. A judgement follows the response it is about; one about no response here goes to train.

    Raises:
        PoiseError: the share is out of range, or `out` is in use.
    """
    if not 0 <= test_share < 1:
        raise PoiseError(f"test share {test_share}", do="give a share from 0 up to but not including 1")
    texts = distinct_conversations(tables)
    of_cluster: dict[int, list[str]] = defaultdict(list)
    for cluster, text in zip(clusters(texts).tolist(), texts, strict=True):
        of_cluster[cluster].append(text)
    groups = sorted(of_cluster.values(), key=lambda group: (uniform_seed(seed, min(group), "split"), min(group)))
    test: set[str] = set()
    for group in groups:
        if len(test) + len(group) / 2 <= test_share * len(texts):
            test.update(group)

    responses = KeyMap()
    step = {"name": "split", "test_share": test_share, "seed": seed, "clusters": len(groups)}
    with TableWriter(out, step, [tables], replace=replace) as writer:
        for unit, table in sorted(tables.items(), key=lambda item: item[0] == "judgements"):
            for batch in table.batches():
                if prompt_column(unit):
                    is_test = np.array([text in test for text in conversations(batch, unit)], dtype=np.int8)
                    for keys in response_keys(batch, unit):
                        responses.add(keys, is_test)
                else:
                    is_test = responses.find(response_keys(batch, unit)[0], missing=0)
                writer.write(unit, _with_split(batch, is_test.tolist(), unit))
    return open_tables(out)


def table_leaks(tables: Tables) -> int:
    """Number of near-duplicate clusters of conversations that lie in more than one split; 0 is what it should be."""
    splits: dict[str, set[str | None]] = defaultdict(set)
    for unit, table in tables.items():
        if prompt_column(unit):
            for batch in table.batches([*conversation_columns(unit), "split"]):
                for text, split in zip(conversations(batch, unit), batch.column("split").to_pylist(), strict=True):
                    splits[text].add(split)
    found: dict[int, set[str | None]] = defaultdict(set)
    for cluster, there in zip(clusters(list(splits)).tolist(), splits.values(), strict=True):
        found[cluster] |= there
    return sum(len(there) > 1 for there in found.values())


def _with_split(batch: pa.RecordBatch, is_test: Sequence[int], unit: str) -> pa.RecordBatch:
    place = TABLES[unit].get_field_index("split")
    column = text_column("test" if test else "train" for test in is_test)
    return pa.RecordBatch.from_arrays(
        [*batch.columns[:place], column, *batch.columns[place + 1 :]], schema=TABLES[unit]
    )


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
