"""Near-duplicates: speed, memory, recall and precision of both back ends, beside datasketch, in one run.

    pip install "rensa>=0.4,<0.5" datasketch        # both optional: what is absent is left out, and said so
    python benchmarks/neardup.py --documents 265000

The corpus is invented here: 80 words a document (about 450 characters) from 20 thousand words with Zipf's frequencies;
one document in ten is an earlier one after 1 to 24 edits of a word or a letter. It lies in an Arrow file and is read
batch by batch; every run is a process of its own, and its memory is the peak above what it held when the search began.

Truth is exact Jaccard similarity of 5-gram sets, counted here with Python sets: over the planted pairs of the whole
corpus, and over all pairs of a sample of 2,000 documents. Recall is the share of true pairs in one cluster. Precision
is, on the sample, the share of pairs in one cluster that hang together through true pairs. The peer does the same job
(normal text, 5-grams, MinHash, banding, exact check) on the first 20,000 documents.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa

from poise.data.minhash import PERMUTATIONS, IntArray, choose, normal
from poise.data.neardup import NEAR, cluster_stream, clusters
from poise.errors import PoiseError

PEER, SAMPLE, BATCH = 20_000, 2_000, 10_000
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def documents(count: int) -> Iterator[tuple[str, int]]:
    """Invented documents, each with the place of the one it was made from, or -1."""
    draw = random.Random(7)
    words = ["".join(draw.choices(LETTERS, k=draw.randint(2, 7))) for _ in range(20_000)]
    weights = list(np.cumsum([1 / (rank + 5) for rank in range(len(words))]))
    recent: list[tuple[int, list[str]]] = []
    for place in range(count):
        if recent and draw.random() < 0.1:
            parent, text = draw.choice(recent)
            text = list(text)
            for _ in range(draw.randint(1, 24)):
                at = draw.randrange(len(text))
                text[at] = draw.choice(words) if draw.random() < 0.5 else text[at] + draw.choice(LETTERS)
        else:
            parent, text = -1, draw.choices(words, cum_weights=weights, k=80)
        recent = [*recent[-999:], (place, text)] if place % 10 == 0 else recent
        yield " ".join(text).capitalize() + ".", parent


def write(folder: Path, count: int) -> None:
    """The corpus as an Arrow file, and the parents beside it."""
    parents = []
    with pa.OSFile(str(folder / "texts.arrow"), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        batch: list[str] = []
        for text, parent in documents(count):
            parents.append(parent)
            batch.append(text)
            if len(batch) == BATCH or len(parents) == count:
                writer.write_batch(pa.record_batch([pa.array(batch)], schema=SCHEMA))
                batch = []
    np.save(folder / "parents.npy", np.array(parents))


SCHEMA = pa.schema([("text", pa.string())])


def batches(folder: Path) -> Iterator[pa.Array]:
    """The texts of the Arrow file."""
    with pa.OSFile(str(folder / "texts.arrow")) as source, pa.ipc.open_stream(source) as reader:
        for batch in reader:
            yield batch.column(0)


def gram_set(text: str) -> frozenset[str]:
    """Character 5-grams, the plain way."""
    text = normal(text).ljust(5, "\0")
    return frozenset(text[i : i + 5] for i in range(len(text) - 4))


def similarity(a: frozenset[str], b: frozenset[str]) -> float:
    """Exact Jaccard similarity."""
    return len(a & b) / len(a | b)


def peak_memory() -> float:
    """Highest resident memory of this process so far, in MB (Linux: the figure of `getrusage` outlives an exec)."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def ours(folder: Path, backend: str) -> None:
    """One measured run of ours, in its own process; the cluster ids go to a file."""
    choose(backend)
    clusters(["a warm start", "another"], backend=backend)  # type: ignore[arg-type]
    before = peak_memory()
    start, cpu = time.perf_counter(), time.process_time()
    ids = cluster_stream(batches(folder), backend=backend)  # type: ignore[arg-type]
    took, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = peak_memory() - before
    np.save(folder / f"{backend}.npy", ids)
    print(json.dumps({"documents": len(ids), "seconds": took, "cpu": cpu, "megabytes": peak}))


def datasketch(folder: Path, _: str) -> None:
    """One measured run of the peer, in its own process."""
    from datasketch import MinHash, MinHashLSH

    texts = first_texts(folder, PEER)
    before = peak_memory()
    start, cpu = time.perf_counter(), time.process_time()
    lsh = MinHashLSH(threshold=NEAR, num_perm=PERMUTATIONS, params=(26, 5))
    sets, parent = [], list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for place, text in enumerate(texts):
        sets.append(gram_set(text))
        sketch = MinHash(num_perm=PERMUTATIONS)
        sketch.update_batch([gram.encode() for gram in sets[-1]])
        for other in lsh.query(sketch):
            if root(other) != root(place) and similarity(sets[place], sets[other]) >= NEAR:
                first, second = sorted((root(place), root(other)))
                parent[second] = first
        lsh.insert(place, sketch, check_duplication=False)
    took, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = peak_memory() - before
    np.save(folder / "datasketch.npy", np.array([root(i) for i in range(len(texts))]))
    print(json.dumps({"documents": len(texts), "seconds": took, "cpu": cpu, "megabytes": peak}))


def first_texts(folder: Path, count: int) -> list[str]:
    """The first texts of the corpus."""
    texts: list[str] = []
    for batch in batches(folder):
        texts += batch.to_pylist()
        if len(texts) >= count:
            break
    return texts[:count]


def planted_recall(folder: Path, ids: IntArray) -> str:
    """Recall over planted pairs among the first 100 thousand texts, all true ones and those close to the threshold."""
    texts, parents = first_texts(folder, 100_000), np.load(folder / "parents.npy")
    found: dict[str, list[bool]] = {"all": [], f"{NEAR:.2f}-{NEAR + 0.05:.2f}": []}
    for place, parent in enumerate(parents[: min(len(texts), len(ids))].tolist()):
        alike = similarity(gram_set(texts[place]), gram_set(texts[parent])) if parent >= 0 else 0
        for name, least in zip(found, (1.0, NEAR + 0.05), strict=True):
            if NEAR <= alike <= least:
                found[name].append(bool(ids[place] == ids[parent]))
    return ", ".join(f"{name}: {np.mean(each):.4f} of {len(each)}" for name, each in found.items())


def sample_quality(folder: Path, backend: str) -> str:
    """Recall and precision over all pairs of a sample."""
    texts = first_texts(folder, SAMPLE)
    sets = [gram_set(text) for text in texts]
    holders: dict[str, list[int]] = defaultdict(list)
    true: list[tuple[int, int]] = []
    for place, grams in enumerate(sets):
        shared = Counter(other for gram in grams for other in holders[gram])
        true += [(o, place) for o, n in shared.items() if n >= NEAR * (len(grams) + len(sets[o]) - n)]
        for gram in grams:
            holders[gram].append(place)
    component = list(range(len(texts)))
    for a, b in true:
        component = [component[a] if c == component[b] else c for c in component]
    ids = clusters(texts, backend=backend).tolist()  # type: ignore[arg-type]
    together = [(a, b) for a, b in combinations(range(len(texts)), 2) if ids[a] == ids[b]]
    recall = np.mean([ids[a] == ids[b] for a, b in true])
    precision = np.mean([component[a] == component[b] for a, b in together])
    return f"recall {recall:.4f} of {len(true)} true pairs, precision {precision:.4f} of {len(together)} linked pairs"


def main() -> None:
    """Make the corpus, run everyone, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--documents", type=int, default=265_000)
    parser.add_argument("--one", nargs=2, metavar=("WHO", "FOLDER"), help="one measured run (used by this script)")
    args = parser.parse_args()
    if args.one:
        (datasketch if args.one[0] == "datasketch" else ours)(Path(args.one[1]), args.one[0])
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, args.documents)
        speed = {}
        print(f"{'':12s} {'documents':>10s} {'seconds':>8s} {'cpu':>8s} {'docs/s':>8s} {'extra MB':>9s}")
        for who in ("rensa", "numpy", "datasketch"):
            command = [sys.executable, __file__, "--one", who, name]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                print(f"{who:12s} left out: {done.stderr.strip().splitlines()[-1]}")
                continue
            row = json.loads(done.stdout)
            speed[who] = row["documents"] / row["seconds"]
            print(
                f"{who:12s} {row['documents']:10d} {row['seconds']:8.1f} {row['cpu']:8.1f} {speed[who]:8.0f} "
                f"{row['megabytes']:9.0f}  recall {planted_recall(folder, np.load(folder / f'{who}.npy'))}"
            )
        ids = {who: np.load(folder / f"{who}.npy") for who in speed}
        if {"rensa", "numpy"} <= set(ids):
            print("clusters of rensa and numpy equal:", bool(np.array_equal(ids["rensa"], ids["numpy"])))
        for who in set(speed) - {"datasketch"} if "datasketch" in speed else ():
            print(f"{who} is {speed[who] / speed['datasketch']:.1f} times as fast as datasketch")
        print(f"sample of {SAMPLE}:", sample_quality(folder, "numpy"))


if __name__ == "__main__":
    try:
        main()
    except PoiseError as error:
        sys.exit(str(error))
