"""BeaverTails-V: a question about an image and two responses, with ids 1 and 2, "yes" and "no", and rates -3..3.

The rates are kept as judgements "harmless-rate" and "helpful-rate" of each response, the severity of the image as one
of question "image-severity", so that they come back. The variant with one response a row (`is_response_safe`) is read
and written too. Of embedded images the path stays, or "sha256:" and the hash of their bytes. Lost on writing: the
image's bytes, categories of another taxonomy, turns; pairs that lack a safe flag, `better` or `safer`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from poise.data.adapters.base import BadRowError, Fields, Format, SourceRow
from poise.data.adapters.beavertails import flagged
from poise.data.containers import Line
from poise.data.records import DualRecord, JudgementRecord, PartialLabel, QARecord, Record

TAXONOMY = "beavertails-v-20"
RATER = "beavertails-v:annotator"
_YES = {"yes": True, "no": False, True: True, False: False}


def _decode(line: Line) -> Iterator[Record]:
    row = Fields(line.row)
    names = flagged([row["category"]], TAXONOMY) if row.get("category") else None
    about: dict[str, Any] = {"image": image_of(row["image"]), "source_id": row.id}
    about["provenance"] = {"category": row["category"]} if row.get("category") else None
    if "response" in row:
        answer = QARecord(
            prompt=row["question"], response=row["response"], label=_label(row["is_response_safe"], names), **about
        )
        yield answer
        yield from _image_severity(row, (answer.item,))
        return
    record = DualRecord(
        prompt=row["question"],
        responses=(row["response_1"], row["response_2"]),
        response_sources=(row.get("response_1_from"), row.get("response_2_from")),
        labels=(_label(row["is_response_1_safe"], names), _label(row["is_response_2_safe"], names)),
        better=_id(row["more_helpful_response_id"]),
        safer=_id(row["safer_response_id"]),
        **about,
    )
    yield record
    for i, item in enumerate(record.items):
        for question in ("harmless", "helpful"):
            if (rate := row.get(f"response_{i + 1}_{question}_rate")) is not None:
                if not -3 <= rate <= 3:
                    raise BadRowError("id-range", f"response_{i + 1}_{question}_rate is outside -3..3")
                yield _judged(item, f"{question}-rate", rate, (item,))
    yield from _image_severity(row, record.items)


def _image_severity(row: Fields, items: tuple[str, ...]) -> Iterator[JudgementRecord]:
    if row.get("image_severity") is not None:
        yield _judged(":".join(items), "image-severity", row["image_severity"], items)


def _judged(item: str, question: str, value: Any, responses: Any) -> JudgementRecord:
    return JudgementRecord(
        item=item, question=question, value=value, rater=RATER, rater_kind="person", responses=responses
    )


def _label(safe: object, names: tuple[str, ...] | None) -> PartialLabel:
    """The category is the question's; it says what the harm is where a response is unsafe."""
    if safe not in _YES:
        raise BadRowError("field-type", "a safe flag is neither yes nor no")
    flag = _YES[safe]
    return PartialLabel(safe=flag, categories=() if flag else names, taxonomy=TAXONOMY)


def _id(value: object) -> int:
    found = {"1": 0, "2": 1}.get(str(value).strip())
    if found is None:
        raise BadRowError("id-range", "a response id is neither 1 nor 2")
    return found


def image_of(image: object) -> str | None:
    """A reference to an image: a path or URI, the path beside embedded bytes, or "sha256:" and their hash
    (of a data URI the hash of its text).

    Raises:
        BadRowError: none of these.
    """
    if isinstance(image, dict):
        content = image.get("bytes")
        hashed = f"sha256:{hashlib.sha256(content).hexdigest()}" if isinstance(content, bytes) else None
        image = image.get("path") or hashed
    if isinstance(image, str) and image.startswith("data:"):
        image = f"sha256:{hashlib.sha256(image.encode()).hexdigest()}"
    if image is None or isinstance(image, str):
        return image
    raise BadRowError("field-type", "an image is neither a path nor a URI")


def _encode(record: Record, judgements: Sequence[JudgementRecord]) -> Iterator[SourceRow]:
    assert isinstance(record, QARecord | DualRecord)
    labels = [record.label] if isinstance(record, QARecord) else record.labels
    if None in [label.safe for label in labels]:
        return
    row: dict[str, Any] = {
        "question": record.prompt,
        "image": record.image,
        "category": (record.provenance or {}).get("category"),
        "image_severity": next((j.value for j in judgements if j.question == "image-severity"), None),
    }
    if isinstance(record, QARecord):
        yield row | {"response": record.response, "is_response_safe": "yes" if record.label.safe else "no"}
        return
    if record.better is None or record.safer is None:
        return
    for i in (0, 1):
        row[f"response_{i + 1}"] = record.responses[i]
        row[f"response_{i + 1}_from"] = record.response_sources[i]
        row[f"is_response_{i + 1}_safe"] = "yes" if record.labels[i].safe else "no"
    row |= {"more_helpful_response_id": str(record.better + 1), "safer_response_id": str(record.safer + 1)}
    for i, item in enumerate(record.items):
        for question in ("harmless", "helpful"):
            asked = f"{question}-rate"
            rate = next((j.value for j in judgements if j.question == asked and j.item == item), None)
            row[f"response_{i + 1}_{question}_rate"] = rate
    yield row


BEAVERTAILS_V = Format(
    "beavertails-v",
    "BeaverTails-V: image questions, two responses, rates -3..3",
    ("question", "image"),
    _decode,
    _encode,
    ("default", "qa"),
    ".parquet",
    licence="CC-BY-NC-4.0",
)
