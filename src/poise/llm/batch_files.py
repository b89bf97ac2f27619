"""Requests as OpenAI Batch files, and what a batch gave back, into the same store that the runner fills.

    files = write_batches(requests, store, folder)    # only what is missing; upload each batch-*.jsonl
    counts = read_batch(results, files[0].requests, store)

A line's `custom_id` is the identity of its request, so results come in any order, from any service that speaks the
format, and twice without harm. Beside each file lies one of the requests themselves (`*.requests.jsonl`), which the
results do not repeat. Left out: uploading and waiting, which the service's own client does well; the ladder's lower
rungs, because a batch asks once (an answer that is no valid JSON is repaired or "invalid").
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, NamedTuple

from poise.data.corpus import canonical_json
from poise.data.folders import partial_folder
from poise.errors import PoiseError
from poise.llm.exchange import ChatRequest, EndpointError, FaultKind, Reply, Shape
from poise.llm.http_faults import Asked, error_in, fault_of
from poise.llm.store import Exchange, ReplyStore, State, outcome
from poise.llm.structured import settle
from poise.llm.wire import Answer, request_body

MOST_REQUESTS, MOST_BYTES = 50_000, 190_000_000
"""OpenAI takes 50,000 requests and 200 MB a file."""


_ENDS: dict[FaultKind, State] = {"filtered": "filtered", "too-long": "dead", "request": "dead", "unsupported": "dead"}
"""Faults that the same request would meet again."""


class BatchFile(NamedTuple):
    """One file to upload, and the requests behind its lines. Args: `model` is the one model that a file may name."""

    path: Path
    requests: Path
    model: str
    rows: int


def write_batches(
    requests: Iterable[ChatRequest],
    store: ReplyStore,
    folder: Path,
    *,
    tokens_name: str = "max_tokens",
    most_requests: int = MOST_REQUESTS,
    most_bytes: int = MOST_BYTES,
) -> list[BatchFile]:
    """Write what the store has no answer to; chats and completions, and different models, go to different files.

    Args:
        folder: must not exist; appears when all files are complete.
        tokens_name: "max_completion_tokens" for models that refuse `max_tokens`.

    Raises:
        PoiseError: the folder exists, or a request has a prefill, which batches do not take.
    """
    if folder.exists():
        raise PoiseError("already exists", where=str(folder), do="name a new folder")
    parts = partial_folder(folder)
    parts.mkdir(parents=True)
    writer = _Writer(parts, folder, most_requests, most_bytes)
    seen: set[str] = set()
    try:
        for request in requests:
            identity = request.identity
            if identity in seen or store.state(identity) not in (None, "dead"):
                continue
            seen.add(identity)
            url = "/v1/completions" if request.complete else "/v1/chat/completions"
            try:
                body = request_body(request, "json_schema", tokens_name=tokens_name)
            except EndpointError as error:
                raise PoiseError(error.reason, where="batch file", do="ask without a prefill") from None
            line = {"custom_id": identity, "method": "POST", "url": url, "body": body}
            writer.add((request.model, url), json.dumps(line) + "\n", request)
        writer.close()
        parts.rename(folder)
    finally:
        writer.close()
        shutil.rmtree(parts, ignore_errors=True)
    return writer.files


class _Writer:
    def __init__(self, parts: Path, folder: Path, most_requests: int, most_bytes: int) -> None:
        self.files: list[BatchFile] = []
        self._parts, self._folder, self._most = parts, folder, (most_requests, most_bytes)
        self._open: dict[tuple[str, str], tuple[int, int, IO[str], IO[str]]] = {}

    def add(self, kind: tuple[str, str], line: str, request: ChatRequest) -> None:
        """Append to the file of this kind, or to a new one when that is full."""
        number, size, lines, requests = self._open.get(kind) or self._start(kind)
        rows = self.files[number].rows
        if rows >= self._most[0] or (rows and size + len(line) > self._most[1]):
            lines.close()
            requests.close()
            number, size, lines, requests = self._start(kind)
        lines.write(line)
        requests.write(canonical_json(asdict(request)) + "\n")
        self._open[kind] = number, size + len(line), lines, requests
        self.files[number] = self.files[number]._replace(rows=self.files[number].rows + 1)

    def _start(self, kind: tuple[str, str]) -> tuple[int, int, IO[str], IO[str]]:
        number = len(self.files)
        names = [f"batch-{number:05d}{ending}" for ending in (".jsonl", ".requests.jsonl")]
        self.files.append(BatchFile(self._folder / names[0], self._folder / names[1], kind[0], 0))
        lines, requests = ((self._parts / name).open("w", encoding="utf-8", newline="\n") for name in names)
        return number, 0, lines, requests

    def close(self) -> None:
        """Close all files."""
        for _, _, lines, requests in self._open.values():
            lines.close()
            requests.close()


def read_requests(path: Path) -> dict[str, ChatRequest]:
    """Identity -> request, of a file that `write_batches` wrote.

    Raises:
        PoiseError: no such file, or not one of ours.
    """
    found = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                told = json.loads(line)
                told |= {"messages": tuple(map(tuple, told["messages"])), "stop": tuple(told["stop"])}
                request = ChatRequest(**told)
                found[request.identity] = request
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PoiseError(
            f"no file of requests ({type(error).__name__})", where=str(path), do="name the *.requests.jsonl"
        ) from error
    return found


def read_batch(results: Path, requests: Path, store: ReplyStore, *, lane: str = "batch") -> Counter[str]:
    """Take in an output or error file of a batch.

    Returns:
        State -> requests that ended so; "stored": answered before; "pending": failed in a way that another try may mend
        (expired, 5xx), which is noted as a fault; "unknown": no request of ours; "broken": no line of such a file.

    Raises:
        PoiseError: no such file.
    """
    asked, counts = read_requests(requests), Counter[str]()
    try:
        with results.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if line.strip():
                    counts[_take(line, asked, store, lane)] += 1
    except OSError as error:
        raise PoiseError(
            f"can't be read ({error.strerror})", where=str(results), do="name the batch's output"
        ) from error
    return counts


def _take(line: str, asked: dict[str, ChatRequest], store: ReplyStore, lane: str) -> str:
    try:
        told: dict[str, Any] = json.loads(line)
        identity, answered = told["custom_id"], told.get("response") or {}
    except (ValueError, KeyError, TypeError, AttributeError):
        return "broken"
    if (request := asked.get(identity)) is None:
        return "unknown"
    if store.state(identity) not in (None, "dead"):
        return "stored"
    found = _reply(request, answered, told)
    if isinstance(found, EndpointError):
        store.fault(identity, lane, found.kind, found.reason)
        if (ended := _ENDS.get(found.kind)) is not None:
            store.finish(request, Exchange(identity, ended, lane=lane, reason=str(found)))
        return ended or "pending"
    value, rung, error = (None, None, None) if request.schema is None else settle(found, request.schema, "json_schema")
    state, reason = outcome(request, found, error)
    store.finish(request, Exchange(identity, state, found, value, rung, lane, 1, reason))
    return state


def _reply(request: ChatRequest, answered: dict[str, Any], told: dict[str, Any]) -> Reply | EndpointError:
    body, status = answered.get("body"), answered.get("status_code")
    asked = Asked(request, "json_schema", None)
    if not isinstance(status, int):
        error = told.get("error") or {}
        code = error.get("code") if isinstance(error, dict) else None
        return EndpointError("server", f"the batch has no answer ({str(code)[:60]})")
    if status != 200 or error_in(body) is not None:
        return fault_of(status, {}, json.dumps(body).encode(), asked)
    answer = Answer(chat=not request.complete)
    if not isinstance(body, dict) or not answer.add(body):
        return EndpointError("server", "an answer of another shape than OpenAI's", status=200)
    shape: Shape = "text" if request.schema is None else "json_schema"
    return answer.reply(shape, 0.0) or EndpointError("server", "an answer without an end", status=200)
