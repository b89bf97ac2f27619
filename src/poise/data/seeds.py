"""The project's own labelled examples: short prompts and responses for each harm category, shipped with the package.

Harmful texts in them show intent or attitude only, never usable detail. They serve as few-shot seeds, as first
training data of the starter rater and as fixtures that carry no foreign licence. File format: one YAML file for each
category with `category` and `prompts`; each prompt has `id`, `kind`, `severity`, `text`, `responses` (`text`,
`categories`, `severity`), `better` and `safer` (response positions, best first).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

from poise.data.corpus import Corpus, pair_row
from poise.data.rows import Judgement, PromptRow, Provenance, QARow, Rater, label_value, text_id
from poise.errors import PoiseError
from poise.harm import Category, Label, Severity, policy_version

AUTHORS = Rater(id="poise-authors", kind="person")
"""Who judged the seeds."""

SEED_FOLDER = Path(__file__).with_name("seeds")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PROMPT_KEYS = {"id", "kind", "severity", "text", "responses", "better", "safer"}
_RESPONSE_KEYS = {"text", "categories", "severity"}


def load_seeds(folder: Path = SEED_FOLDER) -> Corpus:
    """All seeds as a corpus: every pair within a prompt, "label" for each response, "better" and "safer" for each pair.

    `Provenance.parents` of a prompt and its responses holds the id written in the file.

    Raises:
        PoiseError: a file breaks a rule of the format; names file and prompt id.
    """
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise PoiseError("no seed file (*.yaml)", where=str(folder), do="name a folder that holds seeds")
    corpus = Corpus(raters=[AUTHORS])
    seen: set[str] = set()
    for path in files:
        category, prompts = _read_file(path)
        for raw, where in prompts:
            _add_prompt(corpus, raw, category, where)
            for row_id in (raw["id"], corpus.prompts[-1].id):
                if row_id in seen:
                    raise PoiseError("the id or the text was used before", where=where, do="make it unique")
                seen.add(row_id)
    return corpus


def _read_file(path: Path) -> tuple[Category | None, Iterator[tuple[dict[str, Any], str]]]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PoiseError(f"no valid YAML: {' '.join(str(error).split())}", where=str(path), do="mend it") from error
    if not isinstance(content, dict) or set(content) != {"category", "prompts"} or not content["prompts"]:
        raise PoiseError("needs exactly the keys 'category' and 'prompts'", where=str(path), do="mend the file")
    category = None if content["category"] is None else _parse(Category.parse, content["category"], str(path))
    return category, _prompts(path, content["prompts"])


def _prompts(path: Path, rows: list[Any]) -> Iterator[tuple[dict[str, Any], str]]:
    for number, row in enumerate(rows, start=1):
        where = f"{path.name} prompt {number}"
        _need_keys(row, _PROMPT_KEYS, where)
        where = f"{path.name} {row['id']}"
        if not isinstance(row["responses"], list) or len(row["responses"]) < 2:
            raise PoiseError("at least two responses are needed", where=where, do="mend 'responses'")
        for position, response in enumerate(row["responses"]):
            _need_keys(response, _RESPONSE_KEYS, f"{where} response {position}")
        yield row, where


def _need_keys(row: object, keys: set[str], where: str) -> None:
    if not isinstance(row, Mapping):
        raise PoiseError(f"a mapping is needed, not {type(row).__name__}", where=where, do="see the format")
    if set(row) != keys:
        wrong = sorted(str(key) for key in set(row) ^ keys)
        raise PoiseError(f"missing or unknown key: {', '.join(wrong)}", where=where, do=f"keys are {sorted(keys)}")
    if not isinstance(row["text"], str) or not row["text"].strip():
        raise PoiseError("empty text", where=where, do="write the text")


def _add_prompt(corpus: Corpus, raw: dict[str, Any], category: Category | None, where: str) -> None:
    severity = _parse(Severity.parse, raw["severity"], where)
    if raw["kind"] not in ("harmful", "lookalike", "ordinary"):
        raise PoiseError(f"kind {raw['kind']!r}", where=where, do="one of harmful, lookalike, ordinary")
    if (raw["kind"] == "harmful") != (severity > 0):
        raise PoiseError(f"kind {raw['kind']} with severity {severity.label}", where=where, do="mend one of the two")
    if (raw["kind"] == "ordinary") != (category is None):
        raise PoiseError(f"kind {raw['kind']} in a file of category {category and category.code}", where=where)
    labels = [
        _parse(lambda r: Label.of(r["categories"], r["severity"]), response, f"{where} response {position}")
        for position, response in enumerate(raw["responses"])
    ]
    _check_rankings(raw, labels, where)

    made = Provenance(source="poise-seeds", parents=(raw["id"],), policy=policy_version(), licence="Apache-2.0")
    prompt = PromptRow(
        id=text_id("p", raw["text"]),
        prompt=raw["text"],
        kind=raw["kind"],
        category=category.code if category else None,
        severity=int(severity),
        provenance=made,
    )
    answers = [
        QARow(
            id=text_id("qa", prompt.prompt, response["text"]),
            prompt_id=prompt.id,
            prompt=prompt.prompt,
            response=response["text"],
            provenance=made,
        )
        for response in raw["responses"]
    ]
    if len({answer.id for answer in answers}) < len(answers):
        raise PoiseError("two equal responses", where=where, do="make them differ")
    corpus.prompts.append(prompt)
    corpus.qa.extend(answers)
    corpus.judgements += [_judge(qa.id, "label", label_value(label)) for qa, label in zip(answers, labels, strict=True)]
    for i, j in combinations(range(len(answers)), 2):
        pair = pair_row(answers[i], answers[j])
        corpus.pairs.append(pair)
        for question in ("better", "safer"):
            first = i if raw[question].index(i) < raw[question].index(j) else j
            corpus.judgements.append(_judge(pair.id, question, 0 if answers[first].id == pair.qa_0 else 1))


def _check_rankings(raw: dict[str, Any], labels: list[Label], where: str) -> None:
    for question in ("better", "safer"):
        order = raw[question]
        whole = isinstance(order, list) and all(type(position) is int for position in order)
        if not whole or sorted(order) != list(range(len(labels))):
            raise PoiseError(
                f"{question!r} is {order}, no order of all {len(labels)} responses", where=where, do="name each once"
            )
    severities = [int(labels[position].severity) for position in raw["safer"]]
    if severities != sorted(severities):
        raise PoiseError(
            f"'safer' goes through severities {severities}", where=where, do="safe ones first, then less severe first"
        )


def _judge(item: str, question: Any, value: object) -> Judgement:
    return Judgement(item=item, question=question, value=value, rater=AUTHORS.id, policy=policy_version())


def _parse(parser: Any, value: object, where: str) -> Any:
    try:
        return parser(value)
    except (TypeError, ValueError) as error:
        raise PoiseError(str(error), where=where, do="mend the seed file") from error
