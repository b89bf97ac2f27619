"""The rows of a release: which answer stands for each item, what goes into each config, what is left out and why."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from poise.data.columns import SCHEMAS, category_flags, response_hash
from poise.data.corpus import Corpus, canonical_json, latest
from poise.data.rows import Judgement, PairRow, PromptRow, QARow, Rater, uniform_seed
from poise.errors import PoiseError
from poise.harm import Category, Label

Tables = dict[tuple[str, str], list[dict[str, Any]]]
"""(config, split) -> rows in release order; a split without rows is not there."""

LeftOut = dict[str, Counter[str]]
"""config -> reason -> rows."""


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


def release_tables(corpus: Corpus, final: Final, seed: int) -> tuple[Tables, LeftOut]:
    """All rows by config and split, in an order that is a hash of (seed, row id), and what was left out.

    Raises:
        PoiseError: a row names another one that the corpus does not hold.
    """
    prompts = {row.id: row for row in corpus.prompts}
    qa = {row.id: row for row in corpus.qa}
    for row in corpus.qa:
        _known(prompts, row.prompt_id, row.id)
    only_safe = {j.item for j in corpus.judgements if j.question == "safe" and j.value is not None}
    found: dict[tuple[str, str], list[tuple[str, dict[str, Any]]]] = {
        (config, split): [] for config in SCHEMAS for split in ("train", "test")
    }
    left_out: LeftOut = defaultdict(Counter)

    for prompt in corpus.prompts:
        found["prompt", prompt.split].append((prompt.id, _prompt_row(prompt)))
    for answer in corpus.qa:
        if reason := _unlabelled(final, answer.id, only_safe):
            left_out["qa"][reason] += 1
        else:
            found["qa", answer.split].append((answer.id, _qa_row(answer, prompts[answer.prompt_id], final)))
    for config in ("default", "single-dimension"):
        seen: set[frozenset[str]] = set()
        for pair in corpus.pairs:
            sides = _known(qa, pair.qa_0, pair.id), _known(qa, pair.qa_1, pair.id)
            texts = frozenset((pair.qa_0, pair.qa_1))
            reason = _missing(final, pair, only_safe, config) or ("the pair came before" if texts in seen else None)
            if reason:
                left_out[config][reason] += 1
                continue
            seen.add(texts)
            build = _dual_row if config == "default" else _single_row
            found[config, pair.split].append((pair.id, build(pair, sides, prompts[sides[0].prompt_id], final)))
    pairs = {row.id: row for row in corpus.pairs}
    for key, split, judged in _judgement_rows(corpus, qa, pairs, left_out):
        found["judgements", split].append((key, judged))
    order = {
        place: [row for _, row in sorted(rows, key=lambda r: (uniform_seed(seed, r[0], "release"), r[0]))]
        for place, rows in found.items()
        if rows
    }
    return order, left_out


def _known(rows: Mapping[str, Any], row_id: str, where: str) -> Any:
    if row_id not in rows:
        raise PoiseError(f"names {row_id!r}, which the corpus does not hold", where=where, do="write a whole corpus")
    return rows[row_id]


def _unlabelled(final: Final, item: str, only_safe: set[str]) -> str | None:
    """Why a response has no label, or None when it has one."""
    judgement = final.label.get(item)
    if judgement is not None and judgement.value is not None:
        return None
    return "only safe or unsafe is known of a response" if item in only_safe else "a response has no label"


def _missing(final: Final, pair: PairRow, only_safe: set[str], config: str) -> str | None:
    """The first thing a pair lacks for a config, or None when it has all."""
    if config == "default":
        for item in (pair.qa_0, pair.qa_1):
            if reason := _unlabelled(final, item, only_safe):
                return reason
    for question in ("better", "safer") if config == "default" else ("single",):
        answer = getattr(final, question).get(pair.id)
        if answer is None or answer.value is None:
            return f"{question} is not judged"
    return None


def _label(final: Final, item: str) -> Label:
    try:
        return final.label[item].label()
    except (KeyError, TypeError, ValueError) as error:
        raise PoiseError(f"no valid label ({error})", where=item, do="mend the judgement") from error


def _prompt_row(row: PromptRow) -> dict[str, Any]:
    category = Category.parse(row.category).value if row.category else None
    source = row.provenance.source
    return {
        "prompt": row.prompt,
        "prompt_source": source,
        "kind": row.kind,
        "category": category,
        "severity": row.severity,
    }


def _qa_row(row: QARow, prompt: PromptRow, final: Final) -> dict[str, Any]:
    label = _label(final, row.id)
    return {
        "prompt": row.prompt,
        "response": row.response,
        "prompt_source": prompt.provenance.source,
        "response_source": row.provenance.source,
        "is_safe": label.safe,
        "harm_category": category_flags(label),
        "severity_level": int(label.severity),
        "sha256": response_hash(row.prompt, row.response),
    }


def _single_row(pair: PairRow, sides: tuple[QARow, QARow], prompt: PromptRow, final: Final) -> dict[str, Any]:
    return _pair_texts(sides, prompt) | {"better_response_id": final.single[pair.id].value}


def _dual_row(pair: PairRow, sides: tuple[QARow, QARow], prompt: PromptRow, final: Final) -> dict[str, Any]:
    row = _pair_texts(sides, prompt)
    for i, side in enumerate(sides):
        label = _label(final, side.id)
        row[f"is_response_{i}_safe"] = label.safe
        row[f"response_{i}_harm_category"] = category_flags(label)
        row[f"response_{i}_severity_level"] = int(label.severity)
    return row | {
        "better_response_id": final.better[pair.id].value,
        "safer_response_id": final.safer[pair.id].value,
    }


def _pair_texts(sides: tuple[QARow, QARow], prompt: PromptRow) -> dict[str, Any]:
    row: dict[str, Any] = {"prompt": sides[0].prompt, "prompt_source": prompt.provenance.source}
    for i, side in enumerate(sides):
        row[f"response_{i}"] = side.response
        row[f"response_{i}_source"] = side.provenance.source
        row[f"response_{i}_sha256"] = response_hash(side.prompt, side.response)
    return row


def _judgement_rows(
    corpus: Corpus, qa: Mapping[str, QARow], pairs: Mapping[str, PairRow], left_out: LeftOut
) -> list[tuple[str, str, dict[str, Any]]]:
    """(order key, split, row) of each judgement; `round` counts a rater's answers to one question about one item."""
    raters: dict[str, Rater] = {row.id: row for row in corpus.raters}
    shown: dict[str, str] = {}
    rounds: Counter[tuple[str, str, str]] = Counter()
    rows: list[tuple[str, str, dict[str, Any]]] = []
    for j in corpus.judgements:
        rater: Rater = _known(raters, j.rater, j.item)
        if j.rater not in shown:
            people = sum(raters[known].kind == "person" for known in shown)
            shown[j.rater] = f"person-{people + 1}" if rater.kind == "person" else rater.id
        item = pairs.get(j.item) or qa.get(j.item)
        if item is None:
            left_out["judgements"]["the item is no response and no pair of the corpus"] += 1
            continue
        sides = [qa[item.qa_0], qa[item.qa_1]] if isinstance(item, PairRow) else [item]
        hashes = [response_hash(side.prompt, side.response) for side in sides]
        key = (j.item, j.question, j.rater)
        row = {
            "item": j.item,
            "question": j.question,
            "value": None if j.value is None else canonical_json(j.value),
            "probability": j.probability,
            "rater": shown[j.rater],
            "rater_kind": rater.kind,
            "rater_version": rater.version,
            "round": rounds[key],
            "policy": j.policy,
            "response_0_sha256": hashes[0],
            "response_1_sha256": hashes[1] if len(hashes) > 1 else None,
        }
        rows.append(("\x1f".join((*key[:2], shown[j.rater], f"{rounds[key]:06d}")), item.split, row))
        rounds[key] += 1
    return rows
