"""Instruction files to conversations: what a model is asked, and the answers that it shall learn.

Three shapes of a row are known, in any container of `poise.data.containers`:

* Alpaca: `instruction`, `input` (may be blank), `output`. Instruction and input are joined by one blank, as
  the safe-rlhf code does; the paper's responders are made so.
* `prompt` and `response` (or `completion`), with an optional `input` that is joined alike.
* `messages`: a list of `{"role", "content"}` that ends with the assistant; every assistant turn is learnt.

A row that is none of these is dropped and counted with its reason. Left out: ShareGPT's `conversations`, preference
pairs (`poise data` turns pairs into rows), and any judgement whether an answer is good or safe.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from poise.data.containers import BadLine, find_files, read_lines
from poise.errors import PoiseError
from poise.models.encoder import ignore

Message = dict[str, str]
"""`{"role": "system" | "user" | "assistant", "content": text}`."""

ANSWERS = ("output", "response", "completion")


class BadRowError(Exception):
    """Why a row can't be learnt from; the text is the reason that is counted."""


class Instructions(NamedTuple):
    """What a file, or the files of a folder, hold.

    Args:
        conversations: usable rows in the order of the files; each ends with the assistant.
        dropped: rows left out, by reason.
        sha256: of all files, in order.
        places: file and number of each conversation's row.
    """

    conversations: list[list[Message]]
    dropped: Counter[str]
    sha256: str
    places: list[str]


def read_instructions(path: Path, on_row: Callable[[int], object] = ignore) -> Instructions:
    """Read an instruction file, or all data files of a folder.

    Args:
        path: the file or folder.
        on_row: called with 1 after each row, for progress.

    Raises:
        PoiseError: no such file, an unknown suffix, or not one usable row.
    """
    conversations: list[list[Message]] = []
    places: list[str] = []
    dropped: Counter[str] = Counter()
    digest = hashlib.sha256()
    files = find_files(path)
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
        for line in read_lines(file):
            try:
                conversations.append(conversation(_row(line)))
            except BadRowError as reason:
                dropped[str(reason)] += 1
            else:
                places.append(f"{file.name}:{line.number}")
            on_row(1)
    if not conversations:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in dropped.most_common()) or "it is empty"
        raise PoiseError(
            f"no row can be learnt from ({reasons})",
            where=str(path),
            do="rows need instruction + output, prompt + response, or messages",
        )
    return Instructions(conversations, dropped, digest.hexdigest(), places)


def conversation(row: dict[str, Any]) -> list[Message]:
    """The conversation of one row, see the module's docstring for the three shapes.

    Raises:
        BadRowError: the row has no known columns, a value that is no text, an empty prompt or answer, or turns in an
            order that is no conversation.
    """
    if row.get("messages") is not None:
        return _checked_messages(row["messages"])
    question = "instruction" if row.get("instruction") is not None else "prompt"
    answer = next((name for name in ANSWERS if row.get(name) is not None), None)
    if row.get(question) is None:
        raise BadRowError("no-prompt")
    if answer is None:
        raise BadRowError("no-response")
    prompt, extra, response = row[question], row.get("input"), row[answer]
    if not all(isinstance(text, str) for text in (prompt, response, "" if extra is None else extra)):
        raise BadRowError("not-a-text")
    joined = f"{prompt} {extra}" if extra and extra.strip() else prompt
    return _checked_texts([{"role": "user", "content": joined}, {"role": "assistant", "content": response}])


def _row(line: Any) -> dict[str, Any]:
    if isinstance(line, BadLine):
        raise BadRowError(line.rule)
    row: dict[str, Any] = line.row
    return row


def _checked_messages(value: Any) -> list[Message]:
    """[system,] user, assistant, user, assistant, ..."""
    if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(turn, dict) for turn in value):
        raise BadRowError("messages-no-list")
    roles = [turn.get("role") for turn in value]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    if not turns or len(turns) % 2 or turns != ["user", "assistant"] * (len(turns) // 2):
        raise BadRowError("messages-order")
    if not all(isinstance(turn.get("content"), str) for turn in value):
        raise BadRowError("not-a-text")
    return _checked_texts([{"role": turn["role"], "content": turn["content"]} for turn in value])


def _checked_texts(messages: list[Message]) -> list[Message]:
    for message in messages:
        text = message["content"]
        if not text.strip() and message["role"] != "system":
            raise BadRowError("empty-response" if message["role"] == "assistant" else "empty-prompt")
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise BadRowError("encoding")
    return messages
