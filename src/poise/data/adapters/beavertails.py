"""BeaverTails: QA with 14 categories whose names hold commas, and its evaluation prompts.

A row is one annotation: the same prompt and response come several times, by annotators without a name. Each becomes a
"label" judgement of a rater numbered within the file and the item, so that the number tells nothing across items; the
QA stays one row with what most say. The column may also be called `categories`, as a list of the true names. Lost on
writing: anything but prompt, response, label; labels in another taxonomy, with their rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from poise.data.adapters.base import BadRowError, Fields, Format, SourceRow
from poise.data.containers import Line
from poise.data.records import JudgementRecord, PartialLabel, PromptRecord, QARecord, Record
from poise.errors import PoiseError
from poise.harm.taxonomy import load_taxonomy

TAXONOMY = "beavertails-14"
RATER = "beavertails:annotator"


def flagged(categories: object, taxonomy: str = TAXONOMY) -> tuple[str, ...]:
    """The true names of a category field, a mapping name -> bool or a list of names.

    Raises:
        BadRowError: it is neither, or names a category that the taxonomy does not have.
    """
    flags = dict.fromkeys(categories, True) if isinstance(categories, list) else categories
    if not isinstance(flags, dict) or not all(isinstance(flag, bool) for flag in flags.values()):
        raise BadRowError("field-type", "category is neither a mapping name -> bool nor a list")
    named = [name for name, flag in flags.items() if flag]
    try:
        return tuple(load_taxonomy(taxonomy).parse(name) for name in named)
    except PoiseError as error:
        raise BadRowError("unknown-category", f"a category is none of {taxonomy}") from error


def _decode(line: Line) -> Iterator[Record]:
    row = Fields(line.row)
    names = flagged(row["categories"] if "categories" in row else row["category"])
    label = PartialLabel(safe=row["is_safe"], categories=names, taxonomy=TAXONOMY)
    record = QARecord(
        prompt=row["prompt"], response=row["response"], label=label, source_id=row.id, language=row.get("lang")
    )
    yield record
    value = {"safe": label.safe, "categories": list(label.categories or ()), "taxonomy": TAXONOMY}
    yield JudgementRecord(
        item=record.item, question="label", value=value, rater=RATER, rater_kind="person", responses=(record.item,)
    )


def _encode(record: Record, judgements: Sequence[JudgementRecord]) -> Iterator[SourceRow]:
    """One row a judgement, or the row's own label where nobody is named."""
    assert isinstance(record, QARecord)
    values = [j.value for j in judgements if j.question == "label" and (j.value or {}).get("taxonomy") == TAXONOMY]
    if not values and record.label.taxonomy == TAXONOMY and record.label.safe is not None:
        values = [{"safe": record.label.safe, "categories": record.label.categories or ()}]
    for value in values:
        flags = {key: key in value["categories"] for key in load_taxonomy(TAXONOMY).keys}
        row = {"prompt": record.prompt, "response": record.response, "category": flags, "is_safe": value["safe"]}
        yield row


def _decode_evaluation(line: Line) -> Iterator[Record]:
    row = Fields(line.row)
    (name,) = flagged([row["category"]])
    label = PartialLabel(safe=False, categories=(name,), taxonomy=TAXONOMY)
    yield PromptRecord(prompt=row["prompt"], kind="harmful", label=label, source_id=row.id)


def _encode_evaluation(record: Record, judgements: Sequence[JudgementRecord]) -> Iterator[SourceRow]:
    assert isinstance(record, PromptRecord)
    names = record.label.categories if record.label.taxonomy == TAXONOMY else None
    if names and len(names) == 1:
        number = load_taxonomy(TAXONOMY).keys.index(names[0])
        yield {"prompt": record.prompt, "category": names[0], "category_id": number}


BEAVERTAILS = Format(
    "beavertails",
    "BeaverTails 30k/330k: 14 categories, one annotation a row",
    ("prompt", "response", "is_safe"),
    _decode,
    _encode,
    ("qa",),
    ".jsonl.gz",
    repeats=True,
    licence="CC-BY-NC-4.0",
    sign=("category", "categories"),
)
BEAVERTAILS_EVALUATION = Format(
    "beavertails-evaluation",
    "BeaverTails-Evaluation: harmful prompts, one category each",
    ("prompt", "category"),
    _decode_evaluation,
    _encode_evaluation,
    ("prompt",),
    ".jsonl",
    licence="CC-BY-NC-4.0",
    sign=("category_id",),
)
