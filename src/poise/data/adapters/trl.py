"""TRL's preference and unpaired-preference formats, plain or conversational, and OpenAI chat messages.

* `trl-preference`: `prompt`, `chosen`, `rejected`, or only the last two, which then begin with the prompt: in texts it
  is what they share, up to the last blank. The choice is read as one overall preference; written are single pairs, and
  of dual pairs the more helpful one.
* `trl-unpaired`: `prompt`, `completion`, `label`; the label becomes a judgement "desirable", since it says nothing of
  harm. Without a judgement an answer is written as desirable when it is labelled safe.
* `openai-chat`: `messages`; what the assistant says last is the response, without it the row is a prompt. Tools and
  other keys go to provenance. Not taken in: messages without a text (tool calls, images).

Written rows are conversational where there are turns, plain otherwise. Lost on reading: keys of a message other than
role and content. Lost on writing: labels, sources, images, and pairs without a choice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from poise.data.adapters.base import BadRowError, Fields, Format, SourceRow
from poise.data.adapters.transcripts import conversation_pair, ordered
from poise.data.containers import Line
from poise.data.records import JudgementRecord, PromptRecord, QARecord, Record, SingleRecord, Turn


def turns_of(messages: object) -> list[Turn]:
    """Chat messages as turns; content in parts is joined where all parts are texts.

    Raises:
        BadRowError: not a list of messages with role and content.
    """
    if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
        raise BadRowError("field-type", "not a list of messages")
    try:
        return [Turn(role=message.get("role"), content=_content(message.get("content"))) for message in messages]
    except ValidationError as error:
        raise BadRowError("field-type", "a message has no known role or no text") from error


def _content(content: object) -> Any:
    if isinstance(content, list) and all(isinstance(p, dict) and p.get("type") == "text" for p in content):
        return "".join(part["text"] for part in content)
    return content


def _preference(line: Line) -> Iterator[Record]:
    row = Fields(line.row)
    prompt, chosen, rejected = row.get("prompt"), row["chosen"], row["rejected"]
    if isinstance(chosen, str) and isinstance(rejected, str) and isinstance(prompt, str | None):
        if prompt is None:
            prompt, chosen, rejected = _beginning(chosen, rejected)
        responses, side = ordered(prompt, chosen, rejected, ())
        yield SingleRecord(prompt=prompt, responses=responses, better=side, source_id=row.id)
        return
    before = [] if prompt is None else turns_of(prompt)
    found = conversation_pair([*before, *turns_of(chosen)], [*before, *turns_of(rejected)])
    side = found.pop("chosen")
    yield SingleRecord(**found, better=side, source_id=row.id)


def _beginning(chosen: str, rejected: str) -> tuple[str, str, str]:
    """(what both texts begin with, the rest of each): cut before the blank that begins the first word that differs."""
    short = min(len(chosen), len(rejected))
    start = next((i for i in range(short) if chosen[i] != rejected[i]), short)
    while start and not chosen[start - 1].isspace():
        start -= 1
    prompt = chosen[:start].rstrip()
    if chosen == rejected or not prompt:
        raise BadRowError("unusable", "no prompt, and the texts do not begin with one")
    return prompt, chosen[len(prompt) :], rejected[len(prompt) :]


def _encode_preference(record: Record, judgements: Sequence[JudgementRecord]) -> Iterator[SourceRow]:
    assert isinstance(record, SingleRecord)
    if record.better is None:
        return
    chosen, rejected = record.responses[record.better], record.responses[1 - record.better]
    if not record.turns:
        yield {"prompt": record.prompt, "chosen": chosen, "rejected": rejected}
    else:
        yield {"prompt": _asked(record), "chosen": [_said(chosen)], "rejected": [_said(rejected)]}


def _asked(record: Any) -> list[dict[str, str]]:
    return [turn.to_json() for turn in (*record.turns, Turn(role="user", content=record.prompt))]


def _said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _answer(turns: Sequence[Turn]) -> dict[str, Any]:
    """Fields of a QA record from a conversation that ends with an answer to a user."""
    if len(turns) < 2 or (turns[-1].role, turns[-2].role) != ("assistant", "user"):
        raise BadRowError("unusable", "the conversation does not end with an answer to a user")
    return {"prompt": turns[-2].content, "response": turns[-1].content, "turns": tuple(turns[:-2])}


def _unpaired(line: Line) -> Iterator[Record]:
    row = Fields(line.row)
    if isinstance(row["prompt"], str) and isinstance(row["completion"], str):
        record = QARecord(prompt=row["prompt"], response=row["completion"], source_id=row.id)
    else:
        turns = [*turns_of(row["prompt"]), *turns_of(row["completion"])]
        record = QARecord(**_answer(turns), source_id=row.id)
    if not isinstance(row["label"], bool):
        raise BadRowError("field-type", "label is no boolean")
    yield record
    yield JudgementRecord(
        item=record.item, question="desirable", value=row["label"], rater="import", responses=(record.item,)
    )


def _encode_unpaired(record: Record, judgements: Sequence[JudgementRecord]) -> Iterator[SourceRow]:
    assert isinstance(record, QARecord)
    labels = [j.value for j in judgements if j.question == "desirable" and j.value is not None]
    if not labels and record.label.safe is not None:
        labels = [record.label.safe]
    for label in labels:
        if record.turns:
            yield {"prompt": _asked(record), "completion": [_said(record.response)], "label": label}
        else:
            yield {"prompt": record.prompt, "completion": record.response, "label": label}


def _chat(line: Line) -> Iterator[Record]:
    row = Fields(line.row)
    turns = turns_of(row["messages"])
    rest = {name: value for name, value in row.items() if name not in ("messages", "id")} or None
    about: dict[str, Any] = {"provenance": rest, "source_id": row.id}
    if turns and turns[-1].role == "assistant":
        yield QARecord(**_answer(turns), **about)
    elif turns and turns[-1].role == "user":
        yield PromptRecord(prompt=turns[-1].content, turns=tuple(turns[:-1]), **about)
    else:
        raise BadRowError("unusable", "the conversation ends with neither a user nor the assistant")


def _encode_chat(record: Record, judgements: Sequence[JudgementRecord]) -> Iterator[SourceRow]:
    assert isinstance(record, QARecord | PromptRecord)
    answer = [_said(record.response)] if isinstance(record, QARecord) else []
    rest = {name: value for name, value in (record.provenance or {}).items() if name != "messages"}
    yield {"messages": [*_asked(record), *answer]} | rest


TRL_PREFERENCE = Format(
    "trl-preference",
    "TRL preference: prompt, chosen, rejected; texts or messages",
    ("chosen", "rejected"),
    _preference,
    _encode_preference,
    ("single-dimension", "default"),
)
TRL_UNPAIRED = Format(
    "trl-unpaired",
    "TRL unpaired preference: prompt, completion, label",
    ("prompt", "completion", "label"),
    _unpaired,
    _encode_unpaired,
    ("qa",),
)
OPENAI_CHAT = Format(
    "openai-chat",
    "OpenAI chat messages; the last answer is the response",
    ("messages",),
    _chat,
    _encode_chat,
    ("qa", "prompt"),
)
