"""Near-duplicate rows of a data set: which they are, which one stands for its cluster, and tables without the rest.

On "prompt", a cluster is of different conversations that read alike; on "answer", of conversation and response
together. `clusters.parquet` lists every member of a cluster of two or more. What is left out: near-duplicate pairs as
such; a pair goes when its prompt goes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from poise.data.columns import prompt_column
from poise.data.keys import KeyMap, conversation_columns, conversations, distinct_conversations, response_keys
from poise.data.minhash import IntArray
from poise.data.neardup import NEAR, Cluster, cluster_stream, representatives
from poise.data.tables import BATCH, Tables, TableWriter, open_tables
from poise.errors import PoiseError

On = Literal["prompt", "answer"]


class Clusters(NamedTuple):
    """What `find_clusters` found.

    Args:
        ids: cluster of each text, the index of its first member; shape (N,). Texts are the different conversations in
            order of first appearance, or the rows of `qa`.
        clusters: those of two or more texts, the largest first, each with its representative, the first member.
    """

    ids: IntArray
    clusters: list[Cluster]

    @property
    def texts(self) -> int:
        """N."""
        return len(self.ids)

    @property
    def repeats(self) -> int:
        """Texts that are not the first of their cluster."""
        return sum(cluster.size - 1 for cluster in self.clusters)


def find_clusters(tables: Tables, on: On = "prompt", threshold: float = NEAR) -> Clusters:
    """Clusters of near-duplicate texts.

    Raises:
        PoiseError: on "answer" without `qa` rows, or a threshold outside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise PoiseError(f"threshold {threshold}", do="give a similarity over 0 and at most 1")
    if on == "answer" and "qa" not in tables:
        raise PoiseError("no qa rows to look for near-duplicate answers in", where=str(tables.folder))
    if on == "prompt":
        texts = distinct_conversations(tables)
        ids = cluster_stream((texts[i : i + BATCH] for i in range(0, len(texts), BATCH)), threshold)
    else:
        ids = cluster_stream(_answers(tables), threshold)
    return Clusters(ids, representatives(ids))


def dedup_tables(
    tables: Tables, out: Path, on: On = "prompt", threshold: float = NEAR, *, replace: bool = False
) -> tuple[Tables, Clusters]:
    """Tables that keep the first of each cluster, and `clusters.parquet` beside them.

    On "prompt", rows of all units whose conversation is not the first of its cluster go; rows with the very same
    conversation as the first stay. On "answer", `qa` rows that are not the first of their cluster go. Judgements about
    a response that is in no row any more go too.
    """
    found = find_clusters(tables, on, threshold)
    first = found.ids == np.arange(found.texts)
    gone = (
        set()
        if on == "answer"
        else {t for t, keep in zip(distinct_conversations(tables), first, strict=True) if not keep}
    )
    responses = KeyMap()
    step = {"name": "dedup", "on": on, "threshold": threshold, "texts": found.texts, "repeats": found.repeats}
    with TableWriter(out, step, [tables], replace=replace) as writer:
        for unit, table in sorted(tables.items(), key=lambda item: item[0] == "judgements"):
            row = 0
            for batch in table.batches():
                if on == "answer" and unit == "qa":
                    keep = first[row : row + batch.num_rows]
                elif prompt_column(unit):
                    keep = np.array([text not in gone for text in conversations(batch, unit)], dtype=np.bool_)
                else:
                    keep = responses.find(response_keys(batch, unit)[0], missing=1).astype(np.bool_)
                row += batch.num_rows
                for keys in response_keys(batch, unit) if prompt_column(unit) else []:
                    responses.add(keys[keep], np.ones(int(keep.sum()), dtype=np.int8))
                    responses.add(keys[~keep], np.zeros(int((~keep).sum()), dtype=np.int8))
                writer.write(unit, batch if keep.all() else batch.filter(pa.array(keep)))
                writer.left_out[f"{unit}: near-duplicate"] += int((~keep).sum())
        _write_clusters(writer.parts / "clusters.parquet", tables, found, on)
    return open_tables(out), found


def _answers(tables: Tables) -> Iterator[Sequence[str]]:
    for batch in tables["qa"].batches([*conversation_columns("qa"), "response"]):
        asked = conversations(batch, "qa")
        yield [f"{q}\n{a}" for q, a in zip(asked, batch.column("response").to_pylist(), strict=True)]


def _write_clusters(path: Path, tables: Tables, found: Clusters, on: On) -> None:
    """Members of clusters of two or more: cluster, position of the text from 0, whether it was kept, the text."""
    schema = pa.schema(
        [("cluster", pa.int64()), ("text_number", pa.int64()), ("kept", pa.bool_()), ("text", pa.string())]
    )
    sizes = np.bincount(found.ids, minlength=found.texts) if found.texts else np.zeros(0, dtype=np.int64)
    texts = _answers(tables) if on == "answer" else iter([distinct_conversations(tables)])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        start = 0
        for part in texts:
            ids = found.ids[start : start + len(part)]
            members = np.flatnonzero(sizes[ids] > 1)
            columns = [ids[members], members + start, ids[members] == members + start]
            arrays = [pa.array(column) for column in columns] + [
                pa.array([part[int(i)] for i in members], type=pa.string())
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
            start += len(part)
