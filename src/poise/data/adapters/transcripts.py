r"""hh-rlhf: two transcripts "\n\nHuman: ...\n\nAssistant: ..." that differ in the last answer; `chosen` is preferred.

`hh-rlhf` reads one overall choice, `hh-rlhf-harmless` reads the harmlessness split, in which the vote is which one is
safer. The common beginning may stand apart in `prompt`. Response 0 and 1 are put in the order of their hashes, so that
the position tells nothing. Lost on writing: system and tool turns; transcripts that differ before the last answer are
not taken in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from poise.data.adapters.base import BadRowError, Fields, Format, SourceRow
from poise.data.columns import response_hash
from poise.data.containers import Line
from poise.data.records import DualRecord, JudgementRecord, Record, SingleRecord, Turn

_TURN = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}
_NAMES = {"user": "Human", "assistant": "Assistant"}


def parse(transcript: object) -> list[Turn]:
    """The turns of a transcript.

    Raises:
        BadRowError: it is none.
    """
    if not isinstance(transcript, str):
        raise BadRowError("field-type", "a transcript is no text")
    before, *parts = _TURN.split(transcript)
    if before.strip() or not parts:
        raise BadRowError("unusable", "a transcript does not begin with Human or Assistant")
    return [Turn(role=_ROLES[name], content=text.strip()) for name, text in zip(parts[::2], parts[1::2], strict=True)]


def render(turns: Sequence[Turn]) -> str:
    """The transcript of turns; roles other than user and assistant are left out."""
    return "".join(f"\n\n{_NAMES[turn.role]}: {turn.content}" for turn in turns if turn.role in _NAMES)


def ordered(prompt: str, chosen: str, rejected: str, turns: Sequence[Turn]) -> tuple[tuple[str, str], int]:
    """(two responses in the order of their hashes, id of the chosen one).

    Raises:
        BadRowError: they are equal.
    """
    if chosen == rejected:
        raise BadRowError("same-responses", "the two responses are equal")
    before = [(turn.role, turn.content) for turn in turns]
    first = response_hash(prompt, chosen, before) < response_hash(prompt, rejected, before)
    return ((chosen, rejected), 0) if first else ((rejected, chosen), 1)


def conversation_pair(chosen: Sequence[Turn], rejected: Sequence[Turn]) -> dict[str, Any]:
    """Fields of a pair record from two conversations that differ in the last answer, and `chosen`, its response id.

    Raises:
        BadRowError: they differ earlier, or do not end with an answer to a user.
    """
    if list(chosen[:-1]) != list(rejected[:-1]):
        raise BadRowError("unusable", "the conversations differ before the last answer")
    if len(chosen) < 2 or (chosen[-1].role, chosen[-2].role) != ("assistant", "user"):
        raise BadRowError("unusable", "the conversations do not end with an answer to a user")
    if not chosen[-1].content.strip() or not rejected[-1].content.strip() or not chosen[-2].content.strip():
        raise BadRowError("empty-text", "a prompt or an answer is blank")
    prompt, turns = chosen[-2].content, tuple(chosen[:-2])
    responses, side = ordered(prompt, chosen[-1].content, rejected[-1].content, turns)
    return {"prompt": prompt, "turns": turns, "responses": responses, "chosen": side}


def _decode(build: Callable[[dict[str, Any], int], Record]) -> Callable[[Line], Iterator[Record]]:
    def decode(line: Line) -> Iterator[Record]:
        row = Fields(line.row)
        before = row.get("prompt") if not str(row["chosen"]).startswith("\n\nHuman:") else None
        said = [row[name] if before is None else f"{before} {row[name]}" for name in ("chosen", "rejected")]
        found = conversation_pair(parse(said[0]), parse(said[1]))
        side = found.pop("chosen")
        yield build(found | {"source_id": row.id}, side)

    return decode


def _encode(record: Record, judgements: Sequence[JudgementRecord]) -> Iterator[SourceRow]:
    assert isinstance(record, SingleRecord)
    side = record.safer if isinstance(record, DualRecord) else record.better
    if side is not None:
        before = [*record.turns, Turn(role="user", content=record.prompt)]
        said = [render([*before, Turn(role="assistant", content=text)]) for text in record.responses]
        yield {"chosen": said[side], "rejected": said[1 - side]}


HH_RLHF = Format(
    "hh-rlhf",
    "hh-rlhf transcripts, one overall choice",
    ("chosen", "rejected"),
    _decode(lambda values, side: SingleRecord(**values, better=side)),
    _encode,
    ("single-dimension",),
    ".jsonl.gz",
    licence="MIT",
)
HH_RLHF_HARMLESS = Format(
    "hh-rlhf-harmless",
    "hh-rlhf transcripts of the harmlessness split: which one is safer",
    ("chosen", "rejected"),
    _decode(lambda values, side: DualRecord(**values, safer=side)),
    _encode,
    ("default",),
    ".jsonl.gz",
    licence="MIT",
)
