"""One pass over tables, and what it counts; everything else in an audit is arithmetic on these counts.

Rows become small integers that are tallied, so memory grows with the number of different labels, sources and lengths.
Only distinct prompts and responses, and the matching of dual and single pairs, need 8 to 11 bytes a row.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from poise.data.audit.labels import BITS, SAFE, SAFE_KNOWN, Bools, Ints, K, encode, integers, matches
from poise.data.audit.matching import DualBook
from poise.data.audit.phrases import DISCLAIMERS, REFUSALS, anywhere, at_start
from poise.data.audit.tally import Tally
from poise.data.columns import FOREIGN, RESPONSES, TABLES, hash_column, label_columns, prompt_column
from poise.data.keys import Keys, conversations, hash_keys
from poise.data.tables import Table, Tables

Progress = Callable[[int, str], object]

NONE = 2
"""Stands for "neither response" beside the response ids 0 and 1."""
NOT_TOLD = "not told"
STATES = ("safe", "unsafe", "unlabelled")
_ROWS = 16_384
_UNUSED = frozenset({"image", "language", "dataset", "licence", "source_id", "provenance"})
_DISCLAIMER, _REFUSAL = anywhere(DISCLAIMERS), at_start(REFUSALS)


@dataclass
class Counts:
    """What `count_tables` found.

    Args:
        rows: (unit, split) -> rows.
        prompts: unit -> 64-bit keys of its different prompts; with turns before it, of the conversation.
        responses: unit -> keys of its different responses, by hash.
        prompt_sources, subsets: unit -> source -> rows; the subset of a pair is the source of both responses.
        answers: unit -> answers by `label << 1 | half`; the half is the parity of the response's hash.
        decided: unit -> for each category the safe and the other answers that are known to have it or not, (2, 19).
        foreign: (unit, taxonomy, category) -> answers, or prompts; `foreign_of` without the category.
        pairs: unit -> pairs by `pair_code`.
        book: dual pairs, to be found again among single ones.
        single: matched pairs by better, safer, safe one and overall choice, 2 bits each.
        single_shape: single pairs by choice and longer response, 2 bits each.
        refusals: unit -> (unsafe answers, refusals among them); only the first unit that knows unsafe answers.
        lengths: answers by `group << 32 | characters`; `groups` numbers (unit, source, state).
    """

    rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    prompts: dict[str, Ints] = field(default_factory=dict)
    responses: dict[str, Keys] = field(default_factory=dict)
    prompt_sources: dict[str, Counter[str]] = field(default_factory=dict)
    subsets: dict[str, Counter[str]] = field(default_factory=dict)
    answers: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    decided: dict[str, Ints] = field(default_factory=lambda: defaultdict(lambda: np.zeros((2, K), dtype=np.int64)))
    foreign: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    foreign_of: Counter[tuple[str, str]] = field(default_factory=Counter)
    pairs: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    book: DualBook = field(default_factory=DualBook)
    single: Tally = field(default_factory=Tally)
    single_shape: Tally = field(default_factory=Tally)
    refusals: dict[str, tuple[int, int]] = field(default_factory=dict)
    lengths: Tally = field(default_factory=Tally)
    groups: dict[tuple[str, str, str], int] = field(default_factory=dict)


def count_tables(tables: Tables, split: str | None, progress: Progress | None) -> Counts:
    """Count all rows once, or those of one split."""
    counts = Counts()
    for unit, table in tables.items():
        prompts: list[Ints] = []
        responses: list[Keys] = []
        for batch in _batches(unit, table, split):
            _count_rows(counts, unit, batch)
            if prompt_column(unit):
                prompts.append(_prompt_keys(batch, unit))
            keys = [hash_keys(batch.column(hash_column(unit, name))) for name in RESPONSES[unit]]
            responses += [np.unique(k[k != 0]) for k in keys]
            _count_responses(counts, unit, batch, keys)
            if progress is not None:
                progress(batch.num_rows, unit)
        if prompts:
            counts.prompts[unit] = np.unique(np.concatenate(prompts))
        if any(map(len, responses)):
            counts.responses[unit] = np.unique(np.concatenate(responses))
    return counts


def _batches(unit: str, table: Table, split: str | None) -> Iterator[pa.RecordBatch]:
    columns = ["split"] if unit == "judgements" else [name for name in TABLES[unit].names if name not in _UNUSED]
    for batch in table.batches(columns, _ROWS):
        wanted = batch if split is None else batch.filter(pc.equal(batch.column("split"), split))
        if wanted.num_rows:
            yield wanted


def _count_rows(counts: Counts, unit: str, batch: pa.RecordBatch) -> None:
    """Rows by split and source, and categories of other taxonomies."""
    for split, n in _values(pc.fill_null(batch.column("split"), "not split")):
        counts.rows[unit, split] += n
    asked, names = prompt_column(unit), RESPONSES[unit]
    if asked:
        counts.prompt_sources.setdefault(unit, Counter()).update(dict(_values(_source(batch, f"{asked}_source"))))
    if names:
        sources = [_source(batch, f"{name}_source") for name in names]
        last = sources[-1]
        both = pc.if_else(pc.equal(sources[0], last), last, pc.binary_join_element_wise(sources[0], last, "\x1f"))
        for source, n in _values(both):
            counts.subsets.setdefault(unit, Counter())[" / ".join(sorted(source.split("\x1f")))] += n
    for name, _ in FOREIGN.get(unit, []):
        if name.endswith("categories") and batch.column(name).null_count < batch.num_rows:
            _count_foreign(counts, unit, batch, name)


def _count_foreign(counts: Counts, unit: str, batch: pa.RecordBatch, name: str) -> None:
    named = batch.column(name)
    taxonomy = pc.fill_null(batch.column("taxonomy"), NOT_TOLD)
    for value, n in _values(taxonomy.filter(named.is_valid())):
        counts.foreign_of[unit, value] += n
    of = taxonomy.take(pc.list_parent_indices(named))
    for value, n in _values(pc.binary_join_element_wise(of, pc.list_flatten(named), "\x1f")):
        of_taxonomy, category = value.split("\x1f", 1)
        counts.foreign[unit, of_taxonomy, category] += n


def _values(column: pa.Array) -> list[tuple[str, int]]:
    return [(entry["values"], entry["counts"]) for entry in pc.value_counts(column).to_pylist()]


def _source(batch: pa.RecordBatch, name: str) -> pa.Array:
    return pc.fill_null(batch.column(name), NOT_TOLD)


def _prompt_keys(batch: pa.RecordBatch, unit: str) -> Ints:
    """Keys of the different prompts of a batch. They hold in this process only, which is enough to count them."""
    if batch.column("turns").null_count == batch.num_rows:
        texts = batch.column(prompt_column(unit) or "").cast(pa.binary()).unique().to_pylist()
    else:
        texts = [text.encode() for text in set(conversations(batch, unit))]
    return np.unique(np.fromiter(map(hash, texts), dtype=np.int64, count=len(texts)))


def _count_responses(counts: Counts, unit: str, batch: pa.RecordBatch, keys: list[Keys]) -> None:
    names = RESPONSES[unit]
    lengths = [integers(pc.utf8_length(batch.column(name)), 0) for name in names]
    labels = []
    for name, key, length in zip(names, keys, lengths, strict=True):
        state: Ints = np.full(batch.num_rows, STATES.index("unlabelled"))
        if columns := label_columns(unit, name):
            label, decided = encode(batch, columns)
            labels.append(label)
            counts.answers[unit].add(label << 1 | (key & np.uint64(1)).astype(np.int64))
            counts.decided[unit] += decided
            state = np.where(label >> SAFE_KNOWN & 1, 1 - (label >> SAFE & 1), state)
            _count_refusals(counts, unit, batch.column(name), state == STATES.index("unsafe"))
        _count_lengths(counts, unit, _source(batch, f"{name}_source"), state, length)
    if len(names) == 2 and "better_response_id" in batch.schema.names:
        longer = _which(lengths[0] > lengths[1], lengths[0] < lengths[1])
        if unit == "single-dimension":
            _count_single(counts, batch, keys, longer)
        else:
            _count_pairs(counts, unit, batch, keys, labels, longer)


def _count_refusals(counts: Counts, unit: str, texts: pa.Array, unsafe: Bools) -> None:
    if unsafe.any() and not counts.refusals.keys() - {unit}:
        refused = matches(texts.filter(pa.array(unsafe)), _REFUSAL)
        answers, refusals = counts.refusals.get(unit, (0, 0))
        counts.refusals[unit] = answers + int(unsafe.sum()), refusals + int(refused.sum())


def _count_lengths(counts: Counts, unit: str, source: pa.Array, state: Ints, length: Ints) -> None:
    coded = source.dictionary_encode()
    numbers = [
        [counts.groups.setdefault((unit, name, word), len(counts.groups)) for word in STATES]
        for name in coded.dictionary.to_pylist()
    ]
    group = np.array(numbers, dtype=np.int64)[integers(coded.indices, 0), state]
    counts.lengths.add(group << 32 | length)


def pair_code(labels: list[Ints], votes: list[Ints]) -> Ints:
    """A pair as one integer: both labels, then better, safer, longer and the one with a disclaimer, 2 bits each."""
    code = labels[0] | labels[1] << BITS
    for place, vote in enumerate(votes):
        code |= vote << (2 * BITS + 2 * place)
    return code


def _count_pairs(
    counts: Counts, unit: str, batch: pa.RecordBatch, keys: list[Keys], labels: list[Ints], longer: Ints
) -> None:
    better, safer = _chosen(batch, "better_response_id"), _chosen(batch, "safer_response_id")
    known = [(label >> SAFE_KNOWN & 1).astype(np.bool_) for label in labels]
    safe = [(label >> SAFE & 1).astype(np.bool_) for label in labels]
    unsafe = known[0] & known[1] & ~safe[0] & ~safe[1]
    disclaimer: Ints = np.full(batch.num_rows, NONE)
    has = [matches(batch.column(name).filter(pa.array(unsafe)), _DISCLAIMER) for name in RESPONSES[unit]]
    disclaimer[unsafe] = _which(has[0] & ~has[1], has[1] & ~has[0])
    counts.pairs[unit].add(pair_code(labels, [better, safer, longer, disclaimer]))
    if unit == "default":
        both = known[0] & known[1]
        counts.book.add(keys, [better, safer, _which(both & safe[0] & ~safe[1], both & safe[1] & ~safe[0])])


def _count_single(counts: Counts, batch: pa.RecordBatch, keys: list[Keys], longer: Ints) -> None:
    choice = _chosen(batch, "better_response_id")
    counts.single_shape.add(choice | longer << 2)
    matched = counts.book.find(keys, choice)
    counts.single.add(matched @ (1 << 2 * np.arange(4)))


def _chosen(batch: pa.RecordBatch, name: str) -> Ints:
    """The response id of each row, `NONE` where there is none, or it is neither 0 nor 1."""
    ids = integers(batch.column(name), NONE)
    return np.where((ids == 0) | (ids == 1), ids, NONE)


def _which(first: Bools, second: Bools) -> Ints:
    return np.where(first, 0, np.where(second, 1, NONE))
