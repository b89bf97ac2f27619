"""Corpora at any size with the published proportions of PKU-SafeRLHF, and with known faults in them.

`synthesize` is the ground truth of tests and benchmarks: labels and preferences are built to the published counts
(`marginals`, `labels`, `pairs`), texts say nothing (`texts`), violations and near-duplicates are planted where
`truth.json` says (`plant`). `Size.published()` meets every count of `marginals` to the row and every published share to
its rounding. Left out: any relation between what a text says and its label, so nothing can be learnt from it; splits,
so no leak between them can be planted; judgements and corrections.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from poise.data.columns import HARM_CATEGORY, TABLES, response_hash
from poise.data.folders import write_json
from poise.data.neardup import jaccard
from poise.data.synth.labels import SEVERITY, Labels
from poise.data.synth.pairs import Corpus, Size
from poise.data.synth.plant import BREAKS, Plant, Planter, Truth, edited, near_duplicates
from poise.data.synth.texts import Ids, draw, texts
from poise.data.tables import BATCH, TableWriter
from poise.harm import CATEGORIES

__all__ = ["Plant", "Size", "Truth", "synthesize"]

PROMPT_WORDS, ANSWER_WORDS = 20.0, 80.0


def synthesize(
    folder: Path,
    size: Size | float,
    seed: int,
    plant: Plant | None = None,
    *,
    replace: bool = False,
    progress: Callable[[int, str], object] | None = None,
) -> Truth:
    """Write `prompt`, `qa`, `default` and `single-dimension` tables, and `truth.json` beside them.

    Args:
        size: rows, or a multiple of the public release.
        seed: the same seed gives the same bytes.
        plant: faults to plant; none by default.

    Raises:
        PoiseError: the folder is in use, or the size is impossible.
    """
    size = size if isinstance(size, Size) else Size.of(size)
    plant, truth = plant or Plant(), Truth()
    corpus = Corpus(size, seed, plant.contradictions)
    writer = _Texts(corpus, plant, truth)
    step = {"name": "synth", "seed": seed, "sizes": [size.prompts, size.qa, size.dual, size.single]}
    with TableWriter(folder, step, replace=replace) as out:
        rows = {"prompt": size.prompts, "qa": size.qa, "default": size.dual}
        rows["single-dimension"] = len(corpus.single_pairs) + len(corpus.unmatched)
        mixed = np.flatnonzero((corpus.pairs[:, 0] == 0) != (corpus.pairs[:, 1] == 0))
        eligible = {
            rule: np.setdiff1d(mixed if rule == "logical-order" else np.arange(rows[unit]), writer.planted(unit))
            for rule, (unit, _) in BREAKS.items()
        }
        planter = Planter(plant, eligible, seed, truth)
        for unit, count in rows.items():
            for start in range(0, count, BATCH):
                batch = writer.batch(unit, np.arange(start, min(count, start + BATCH), dtype=np.int64))
                out.write(unit, planter.broken(unit, batch, start))
                if progress is not None:
                    progress(batch.num_rows, unit)
        write_json(out.parts / "truth.json", truth.to_json())
    return truth


class _Texts:
    """Batches of each unit, with texts."""

    def __init__(self, corpus: Corpus, plant: Plant, truth: Truth) -> None:
        self.corpus, seed, size = corpus, corpus.seed, corpus.size
        self.copied_prompts = near_duplicates(seed, 20, np.arange(size.prompts), plant.prompts)
        self.copied_answers = near_duplicates(seed, 30, np.arange(2 * size.dual, size.qa), plant.answers)
        for unit, copies in (("prompt", self.copied_prompts), ("qa", self.copied_answers)):
            truth.near_duplicates += self._compared(unit, copies)
        truth.violations += [
            ("safe-severity-category", unit, row) for unit in ("default", "qa") for row in self._contradicting(unit)
        ]

    def _compared(self, unit: str, copies: dict[int, tuple[int, str]]) -> Iterator[tuple[str, int, int, str, float]]:
        write = self._prompts if unit == "prompt" else self._answers
        ids = sorted(copies)
        for start in range(0, len(ids), BATCH):
            part = ids[start : start + BATCH]
            origins = [copies[i][0] for i in part]
            written = [write(np.array(which, dtype=np.int64)) for which in (part, origins)]
            for copy, origin, text, before in zip(part, origins, *written, strict=True):
                yield unit, copy, origin, copies[copy][1], round(jaccard(text, before), 4)

    def _contradicting(self, unit: str) -> list[int]:
        pairs = self.corpus.contradictions
        return sorted(pairs.tolist() if unit == "default" else [*(2 * pairs).tolist(), *(2 * pairs + 1).tolist()])

    def planted(self, unit: str) -> list[int]:
        """Rows of a unit that have something planted in them already: copies, their originals, contradictions."""
        copies = {"prompt": self.copied_prompts, "qa": self.copied_answers}.get(unit, {})
        rows = [*copies, *(origin for origin, _ in copies.values())]
        return rows + (self._contradicting(unit) if unit in ("default", "qa") else [])

    def batch(self, unit: str, rows: Ids) -> pa.RecordBatch:
        """The rows of a unit."""
        columns = {"prompt": self._prompt_rows, "qa": self._qa_rows}.get(unit, self._pair_rows)(unit, rows)
        schema = TABLES[unit]
        arrays = [
            pa.array(columns[f.name], type=f.type) if not isinstance(columns.get(f.name), pa.Array) else columns[f.name]
            for f in schema
            if f.name in columns
        ]
        named = iter(arrays)
        full = [next(named) if f.name in columns else pa.nulls(len(rows), f.type) for f in schema]
        return pa.RecordBatch.from_arrays(full, schema=schema)

    def _prompts(self, ids: Ids) -> list[str]:
        return self._written(100, ids, PROMPT_WORDS, self.copied_prompts)

    def _answers(self, ids: Ids) -> list[str]:
        return self._written(200, ids, ANSWER_WORDS, self.copied_answers)

    def _written(self, purpose: int, ids: Ids, mean: float, copies: dict[int, tuple[int, str]]) -> list[str]:
        found = texts(self.corpus.seed, purpose, _origins(ids, copies), mean)
        for place, i in enumerate(ids.tolist() if copies else []):
            if i in copies:
                found[place] = edited(found[place], copies[i][1], i)
        return found

    def _prompt_rows(self, unit: str, rows: Ids) -> dict[str, Any]:
        source = self.corpus.prompt_source[rows].tolist()
        plain = {"kind": ["unknown"] * len(rows), "severity": np.zeros(len(rows), dtype=np.int64)}
        return {"prompt": self._prompts(rows), "prompt_source": source, **plain}

    def _qa_rows(self, unit: str, rows: Ids) -> dict[str, Any]:
        corpus, labels = self.corpus, self.corpus.labels[rows]
        asked = self._asked(rows)
        prompts, answers = self._prompts(asked), self._answers(rows)
        return {
            "prompt": prompts,
            "response": answers,
            "prompt_source": corpus.prompt_source[asked].tolist(),
            "response_source": corpus.model_of(rows).tolist(),
            "is_safe": pa.array(corpus.safe[rows]),
            "harm_category": _flags(labels),
            "severity_level": labels >> SEVERITY,
            "sha256": [response_hash(p, a) for p, a in zip(prompts, answers, strict=True)],
        }

    def _asked(self, answers: Ids) -> Ids:
        """The prompt that an answer is written under; a near-duplicate answer answers the same prompt."""
        return self.corpus.prompt_of(_origins(answers, self.copied_answers))

    def _pair_rows(self, unit: str, rows: Ids) -> dict[str, Any]:
        corpus = self.corpus
        if unit == "default":
            sides, choice = np.stack([2 * rows, 2 * rows + 1], axis=1), corpus.better[rows]
        else:
            matched = len(corpus.single_pairs)
            known, others = rows[rows < matched], corpus.unmatched[rows[rows >= matched] - matched]
            pairs = corpus.single_pairs[known]
            partners = 2 * corpus.pair_of(_origins(others, self.copied_answers))  # an answer to the same prompt
            sides = np.stack([np.append(2 * pairs, others), np.append(2 * pairs + 1, partners)], axis=1)
            coin = (draw(corpus.seed, 10, rows[len(known) :]) & np.uint64(1)).astype(np.int64)
            choice = np.append(corpus.single_choice[known], coin)
        asked = self._asked(sides[:, 0])
        prompts = self._prompts(asked)
        columns: dict[str, Any] = {"prompt": prompts, "prompt_source": corpus.prompt_source[asked].tolist()}
        for i in (0, 1):
            answers = self._answers(sides[:, i])
            columns[f"response_{i}"] = answers
            columns[f"response_{i}_source"] = corpus.model_of(sides[:, i]).tolist()
            columns[f"response_{i}_sha256"] = [response_hash(p, a) for p, a in zip(prompts, answers, strict=True)]
            if unit == "default":
                labels = corpus.pairs[rows, i]
                columns[f"is_response_{i}_safe"] = pa.array(corpus.safe[sides[:, i]])
                columns[f"response_{i}_harm_category"] = _flags(labels)
                columns[f"response_{i}_severity_level"] = labels >> SEVERITY
        columns["better_response_id"] = choice
        if unit == "default":
            columns["safer_response_id"] = corpus.safer[rows]
        return columns


def _origins(ids: Ids, copies: dict[int, tuple[int, str]]) -> Ids:
    return np.array([copies[i][0] if i in copies else i for i in ids.tolist()], dtype=np.int64) if copies else ids


def _flags(labels: Labels) -> pa.StructArray:
    flags = [pa.array((labels >> category.index) & 1 == 1) for category in CATEGORIES]
    return pa.StructArray.from_arrays(flags, fields=list(HARM_CATEGORY))
