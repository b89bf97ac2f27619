"""A corpus as tables: rows that refer to each other become rows that stand alone, with the answer that stands.

The way from a run of the pipeline to a release: `corpus_tables`, then `poise.data.release.write_release`. Left out:
free-text reasons of judgements, which may quote or identify.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from poise.data.columns import response_hash
from poise.data.corpus import Corpus, latest
from poise.data.records import UNKNOWN, DualRecord, JudgementRecord, PartialLabel, PromptRecord, QARecord, SingleRecord
from poise.data.release_configs import NO_LABEL, ONLY_SAFE, SAME_PAIR, not_judged
from poise.data.rows import Judgement, PairRow, PromptRow, QARow, Rater
from poise.data.tables import Tables, TableWriter, open_tables
from poise.errors import PoiseError
from poise.harm import Category


@dataclass(frozen=True)
class Final:
    """The one answer that stands for each item; a value of None counts as not judged.

    Args:
        label: by QA id, "label" judgements.
        better, safer, single: by pair id.
    """

    label: Mapping[str, Judgement]
    better: Mapping[str, Judgement]
    safer: Mapping[str, Judgement]
    single: Mapping[str, Judgement]

    @classmethod
    def of(cls, corpus: Corpus, prefer: Sequence[str] = ()) -> Final:
        """The latest answers of the corpus, raters named earlier in `prefer` first; see `poise.data.corpus.latest`."""
        label, better, safer, single = (
            latest(corpus.judgements, question, prefer) for question in ("label", "better", "safer", "single")
        )
        return cls(label, better, safer, single)


def corpus_tables(corpus: Corpus, final: Final, folder: Path) -> Tables:
    """Write a corpus as tables, ready for `poise.data.release.write_release`.

    A pair is one row of `default` and one of `single-dimension`, whatever is judged of it; of copies of one pair the
    first that is complete is taken, or else the first. Judgements about nothing that the corpus holds are left out.

    Args:
        corpus: texts with their splits, and all judgements.
        final: the answer that stands for each item.
        folder: must not exist or be empty.

    Raises:
        PoiseError: the corpus is empty, the folder is in use, a row names another one that the corpus does not hold,
            or an answer is not valid; then nothing is left behind.
    """
    if not corpus.prompts:
        raise PoiseError("the corpus is empty", where=str(folder), do="release a corpus that holds prompts")
    prompts = {row.id: row for row in corpus.prompts}
    qa = {row.id: row for row in corpus.qa}
    safe = latest(corpus.judgements, "safe")
    labels = {row.id: _label(final.label.get(row.id), safe.get(row.id), row.id) for row in corpus.qa}
    with TableWriter(folder, {"name": "corpus"}) as writer:
        writer.left_out.update(corpus.dropped)
        for prompt in corpus.prompts:
            writer.add(_prompt(prompt))
        for answer in corpus.qa:
            writer.add(_qa(answer, _known(prompts, answer.prompt_id, answer.id), labels[answer.id]))
        for unit in ("default", "single-dimension"):
            for pair in _pairs(corpus, final, labels, unit, writer.left_out):
                sides = _known(qa, pair.qa_0, pair.id), _known(qa, pair.qa_1, pair.id)
                writer.add(
                    _pair(pair, sides, prompts[sides[0].prompt_id], final, labels if unit == "default" else None)
                )
        for judgement in _judgements(corpus, qa, writer.left_out):
            writer.add(judgement)
    return open_tables(folder)


def _known(rows: Mapping[str, Any], row_id: str, where: str) -> Any:
    if row_id not in rows:
        raise PoiseError(f"names {row_id!r}, which the corpus does not hold", where=where, do="write a whole corpus")
    return rows[row_id]


def _label(judged: Judgement | None, safe: Judgement | None, item: str) -> PartialLabel:
    """The label that stands, or only safe or unsafe, or nothing."""
    try:
        if judged is not None and judged.value is not None:
            label = judged.label()
            names = tuple(category.value for category in label.categories)
            return PartialLabel(safe=label.safe, categories=names, severity=int(label.severity))
        return UNKNOWN if safe is None else PartialLabel(safe=safe.value)
    except (KeyError, TypeError, ValueError) as error:
        raise PoiseError(f"no valid label ({type(error).__name__})", where=item, do="mend the judgement") from error


def _prompt(row: PromptRow) -> PromptRecord:
    return PromptRecord(
        prompt=row.prompt,
        source=row.provenance.source,
        kind=row.kind,
        category=Category.parse(row.category).value if row.category else None,
        severity=row.severity,
        **_carried(row),
    )


def _qa(row: QARow, prompt: PromptRow, label: PartialLabel) -> QARecord:
    return QARecord(
        prompt=row.prompt,
        response=row.response,
        prompt_source=prompt.provenance.source,
        response_source=row.provenance.source,
        label=label,
        **_carried(row),
    )


def _carried(row: PromptRow | QARow) -> dict[str, Any]:
    made = row.provenance.model_dump(mode="json", exclude_none=True)
    return {"split": row.split, "source_id": row.id, "provenance": made}


def _pairs(
    corpus: Corpus, final: Final, labels: Mapping[str, PartialLabel], unit: str, left_out: Counter[str]
) -> Iterator[PairRow]:
    """The pairs to write, copies taken out and counted."""
    why = {pair.id: _missing(pair, final, labels, unit) for pair in corpus.pairs}
    first: dict[frozenset[str], str] = {}
    for pair in sorted(corpus.pairs, key=lambda pair: why[pair.id] is not None):
        first.setdefault(frozenset((pair.qa_0, pair.qa_1)), pair.id)
    for pair in corpus.pairs:
        if first[frozenset((pair.qa_0, pair.qa_1))] == pair.id:
            yield pair
        else:
            left_out[f"{unit}: {why[pair.id] or SAME_PAIR}"] += 1


def _missing(pair: PairRow, final: Final, labels: Mapping[str, PartialLabel], unit: str) -> str | None:
    """The first thing that a pair lacks for the config of the unit, in the words of a release; None: nothing."""
    for item in (pair.qa_0, pair.qa_1) if unit == "default" else ():
        if labels.get(item, UNKNOWN).severity is None:
            return NO_LABEL if labels.get(item, UNKNOWN).safe is None else ONLY_SAFE
    for question in ("better", "safer") if unit == "default" else ("single",):
        if _answer(final, question, pair) is None:
            return not_judged(unit, question)
    return None


def _answer(final: Final, question: str, pair: PairRow) -> Any:
    answer = getattr(final, question).get(pair.id)
    return None if answer is None else answer.value


def _pair(
    pair: PairRow,
    sides: tuple[QARow, QARow],
    prompt: PromptRow,
    final: Final,
    labels: Mapping[str, PartialLabel] | None,
) -> SingleRecord:
    """A dual record where there are labels, otherwise a single one."""
    row: dict[str, Any] = {
        "prompt": sides[0].prompt,
        "responses": tuple(side.response for side in sides),
        "prompt_source": prompt.provenance.source,
        "response_sources": tuple(side.provenance.source for side in sides),
        "split": pair.split,
        "source_id": pair.id,
    }
    try:
        if labels is None:
            return SingleRecord(**row, better=_answer(final, "single", pair))
        better, safer = (_answer(final, question, pair) for question in ("better", "safer"))
        return DualRecord(**row, better=better, safer=safer, labels=tuple(labels[side.id] for side in sides))
    except ValidationError as error:
        name = ".".join(str(part) for part in error.errors(include_input=False)[0]["loc"])
        raise PoiseError(f"an answer does not fit the columns ({name})", where=pair.id, do="mend it") from error


def _judgements(corpus: Corpus, qa: Mapping[str, QARow], left_out: Counter[str]) -> Iterator[JudgementRecord]:
    """Judgements in the order of the log; `round` counts a rater's answers to one question about one item."""
    raters: dict[str, Rater] = {row.id: row for row in corpus.raters}
    pairs = {row.id: row for row in corpus.pairs}
    rounds: Counter[tuple[str, str, str]] = Counter()
    for j in corpus.judgements:
        rater: Rater = _known(raters, j.rater, j.item)
        item = pairs.get(j.item) or qa.get(j.item)
        if item is None:
            left_out["judgements: the item is no response and no pair of the corpus"] += 1
            continue
        sides = [qa[item.qa_0], qa[item.qa_1]] if isinstance(item, PairRow) else [item]
        key = (j.item, j.question, j.rater)
        yield JudgementRecord(
            item=j.item,
            question=j.question,
            value=j.value,
            rater=rater.id,
            rater_kind=rater.kind,
            rater_version=rater.version,
            probability=j.probability,
            round=rounds[key],
            policy=j.policy,
            responses=tuple(response_hash(side.prompt, side.response) for side in sides),
            split=item.split,
        )
        rounds[key] += 1
