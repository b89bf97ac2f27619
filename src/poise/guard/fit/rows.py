"""Training rows from any tables: what each source knows of a prompt or an answer, and NaN where it knows nothing.

Sets are read, carried to the 19 categories through their crosswalk (true, false or undecided), merged, and split once
by near-duplicate cluster of the conversation, so that no set's test prompt is trained on through another set. A set
that knows only safe or unsafe teaches only that; several raters of one answer teach their share of votes; a pair of
which only the safer answer is known teaches that order. What training adds to them is `poise.guard.fit.enrich`.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from poise.data import Judgement, QARow, load_seeds, uniform_seed
from poise.data.adapters.registry import format_of
from poise.data.columns import response_hash
from poise.data.crosswalked import map_tables
from poise.data.neardup import clusters
from poise.data.reading import Reader
from poise.data.records import UNKNOWN, DualRecord, JudgementRecord, PartialLabel, PromptRecord, QARecord, Record
from poise.data.split import split_tables
from poise.data.tables import Tables, TableWriter, merge_tables, open_tables
from poise.guard.fit.plan import DataPlan, SetUse
from poise.harm import CATEGORIES
from poise.harm.taxonomy import PKU
from poise.models.heads import K

NAN = math.nan
SEEDS = "seeds"


class Row(NamedTuple):
    """One prompt, or one answer to it.

    Args:
        prompt: with the conversation before it.
        response: None for a prompt alone.
        source: name of the set.
        part: "train", "calibration" or "test".
        categories: 19 numbers 0..1, NaN where unknown.
        at_least: P(severity >= 1, 2, 3), NaN where unknown.
        refusal: 1 where the answer refuses, NaN where unknown.
        weight: of the row in the loss.
        safer: an answer to the same prompt that people found safer, where no label of either is known.
    """

    prompt: str
    response: str | None
    source: str
    part: str
    categories: tuple[float, ...]
    at_least: tuple[float, float, float]
    refusal: float
    weight: float = 1.0
    safer: str | None = None

    @property
    def unsafe(self) -> bool | None:
        """What the source says, None where it does not know or is split."""
        told = self.at_least[0]
        return None if math.isnan(told) or told == 0.5 else told > 0.5


def prepare(
    plan: DataPlan, data: Path, work: Path, seed: int, tell: Callable[[str], object] = lambda line: None
) -> Tables:
    """Read, map, merge and split all sets below `work`; what is there already is used again.

    Raises:
        PoiseError: a set is not there or not readable.
    """
    parts = []
    for name, use in plan.sets.items():
        mapped = work / "mapped" / name
        if not (mapped / "manifest.json").is_file():
            tell(f"reading {name}")
            _read(name, use, data, work, mapped)
        parts.append(open_tables(mapped))
    split = work / "split"
    if not (split / "manifest.json").is_file():
        merged = merge_tables(parts, work / "merged", replace=True)
        split_tables(merged, split, plan.test_share, seed)
    return open_tables(split)


def _read(name: str, use: SetUse, data: Path, work: Path, mapped: Path) -> None:
    raw = work / "read" / name
    if name == SEEDS:
        with TableWriter(raw, {"name": "seeds"}, replace=True) as writer:
            for record in _seed_records():
                writer.add(record)
    else:
        Reader(format_of(use.format or name), dataset=name).read([data / name], raw, replace=True)
    map_tables(open_tables(raw), PKU, mapped)


def _seed_records() -> Iterator[Record]:
    from poise.data.corpus import latest

    corpus = load_seeds()
    labels = latest(corpus.judgements, "label")
    for row in corpus.qa:
        label = labels[row.id].label()
        names = tuple(c.value for c in sorted(label.categories, key=lambda c: c.index))
        told = PartialLabel(safe=label.safe, categories=names, severity=int(label.severity))
        yield QARecord(prompt=row.prompt, response=row.response, label=told, dataset=SEEDS, licence="Apache-2.0")


def rows_of(tables: Tables, plan: DataPlan, seed: int) -> list[Row]:
    """All rows that know something, once each; training rows of a set are thinned to its limit, prompt by prompt."""
    votes, refusals = _votes(tables)
    found: dict[tuple[str, str, str | None], Row] = {}
    for unit in ("qa", "default", "pairs-extended", "prompt"):
        if unit in tables:
            for record in tables[unit].records():
                for row in _rows(record, plan, votes, refusals, seed):
                    found.setdefault((row.source, row.prompt, row.response), row)
    return _thinned(_apart(list(found.values())), plan, seed)


def _apart(rows: list[Row]) -> list[Row]:
    """Without training rows whose prompt is a near-duplicate of one that is measured.

    The split keeps clusters together, but a set that is measured as a whole has rows in clusters of either side.
    """
    measured = list(dict.fromkeys(row.prompt for row in rows if row.part == "test"))
    learnt = list(dict.fromkeys(row.prompt for row in rows if row.part != "test"))
    ids = clusters([*measured, *learnt]).tolist() if measured and learnt else []
    taken = set(ids[: len(measured)])
    near = {prompt for prompt, cluster in zip(learnt, ids[len(measured) :], strict=bool(ids)) if cluster in taken}
    return [row for row in rows if row.part == "test" or row.prompt not in near]


def _votes(tables: Tables) -> tuple[dict[str, tuple[int, int]], dict[str, float]]:
    """Item -> (votes for unsafe, votes); item -> share of votes for a refusal.

    People vote, and so do imported answers, each rater by the latest round; models and rules don't.
    """
    latest: dict[tuple[str, str, str], tuple[int, list[Any]]] = {}
    for record in tables["judgements"].records() if "judgements" in tables else ():
        assert isinstance(record, JudgementRecord)
        if record.question in ("safe", "refusal") and record.rater_kind in ("person", "import"):
            round_, values = latest.setdefault((record.question, record.item, record.rater), (record.round, []))
            if record.round > round_:
                latest[record.question, record.item, record.rater] = (record.round, [record.value])
            elif record.round == round_:
                values.append(record.value)
    unsafe: dict[str, list[bool]] = defaultdict(list)
    refused: dict[str, list[bool]] = defaultdict(list)
    for (question, item, _), (_, values) in latest.items():
        told = [value for value in values if isinstance(value, bool)]
        if told and question == "safe":
            unsafe[item] += [not value for value in told]
        elif told:
            refused[item] += told
    shares = {item: sum(told) / len(told) for item, told in refused.items()}
    return {item: (sum(told), len(told)) for item, told in unsafe.items()}, shares


def _rows(
    record: Record,
    plan: DataPlan,
    votes: Mapping[str, tuple[int, int]],
    refusals: Mapping[str, float],
    seed: int,
) -> Iterable[Row]:
    name = record.dataset or ""
    use = plan.sets.get(name)
    if use is None or record.image is not None:  # what is asked there, the text alone doesn't tell
        return
    prompt = "\n".join([*(turn.content for turn in record.turns), getattr(record, "prompt", "")])
    part = "test" if record.split == "test" or use.use == "test" else "train"
    if part == "train" and uniform_seed(seed, "calibration", prompt) < plan.calibration_share * 2**63:
        part = "calibration"
    answers: list[tuple[str | None, PartialLabel]] = []
    if isinstance(record, QARecord):
        answers = [(record.response, record.label)]
    elif isinstance(record, DualRecord):
        answers = list(zip(record.responses, record.labels, strict=True))
        if record.safer in (0, 1) and part == "train" and record.labels == (UNKNOWN, UNKNOWN) and not use.harmless:
            worse, safer = record.responses[1 - record.safer], record.responses[record.safer]
            yield Row(prompt, worse, name, part, (NAN,) * K, (NAN,) * 3, NAN, use.weight, safer)
    elif isinstance(record, PromptRecord):
        answers = [(None, record.label)]
    turns = [(turn.role, turn.content) for turn in record.turns]
    for response, label in answers:
        item = None if response is None else response_hash(record.prompt, response, turns, record.image)  # type: ignore[attr-defined]
        harmless = use.harmless and response is not None and label == UNKNOWN
        categories, at_least = _targets(PartialLabel(safe=True) if harmless else label)
        if item is not None and (counted := votes.get(item)) is not None and counted[1] > 1:
            share = counted[0] / counted[1]
            if label.safe and share > 0.5:  # overruled: what "safe" told of kinds and levels is unknown
                categories, at_least = (NAN,) * K, (NAN,) * 3
            elif share < 0.5:
                categories = tuple(min(value, share) for value in categories)  # min of NaN first is NaN
            at_least = (share, min(at_least[1], share), min(at_least[2], share))
        refusal = refusals.get(item, NAN) if item is not None else NAN
        if not all(map(math.isnan, (*categories, *at_least, refusal))):
            yield Row(prompt, response, name, part, categories, at_least, refusal, use.weight)


def _targets(label: PartialLabel) -> tuple[tuple[float, ...], tuple[float, float, float]]:
    """Numbers of a label; a safe one has no category and no severity."""
    flags = label.flags()
    if label.safe:
        return (0.0,) * K, (0.0, 0.0, 0.0)
    if flags is None:
        categories: tuple[float, ...] = (NAN,) * K
    else:
        categories = tuple(NAN if (flag := flags[c.value]) is None else float(flag) for c in CATEGORIES)
    if label.severity is not None:
        return categories, (float(label.severity >= 1), float(label.severity >= 2), float(label.severity >= 3))
    return categories, (1.0 if label.safe is False else NAN, NAN, NAN)


def row_of(answer: QARow, judgement: Judgement, part: str) -> Row:
    """What one judgement teaches: a label all, "safe" that no harm is there, "unsafe" only that some is.

    Args:
        judgement: of the question "label" or "safe", with a value.
    """
    if judgement.question == "safe":
        told = PartialLabel(safe=bool(judgement.value))
    else:
        label = judgement.label()
        told = PartialLabel(
            safe=label.safe, categories=tuple(c.value for c in label.categories), severity=int(label.severity)
        )
    categories, at_least = _targets(told)
    return Row(answer.prompt, answer.response, answer.provenance.source, part, categories, at_least, NAN)


def labelled_rows(tables: Tables) -> list[Row]:
    """All rows with a label in the 19 categories (see `poise data map`); part is "test" where a row says so."""
    names = {
        name
        for unit in ("qa", "default", "pairs-extended", "prompt")
        if unit in tables
        for batch in tables[unit].batches(["dataset"])
        for name in batch.column("dataset").unique().to_pylist()
    }
    if not names:
        return []
    plan = DataPlan(sets={name or "": SetUse(rows=10**9) for name in names}, calibration_share=1e-9)
    return [row for row in rows_of(tables, plan, 0) if row.safer is None]


def _thinned(rows: list[Row], plan: DataPlan, seed: int) -> list[Row]:
    kept: list[Row] = []
    by_set: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        (by_set[row.source] if row.part == "train" else kept).append(row)
    for name, own in by_set.items():
        order = sorted(own, key=lambda row: (uniform_seed(seed, "thin", row.prompt), row.response or ""))
        kept += order[: plan.sets[name].rows]
    return sorted(kept, key=lambda row: (row.source, row.prompt, row.response or ""))
