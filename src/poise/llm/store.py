"""Replies that were paid for, in one SQLite file: each is committed by itself, none is ever sent for again.

A row is one finished request: what was asked, what came back, how it ended. A request without a row is pending, so a
killed run has nothing to clean up: whoever brings the same requests again gets the same answers and sends the rest.
Addresses and keys of servers are never stored, only the alias of the lane. A long message that many requests share (a
rubric) is stored once, under its hash. WAL with `synchronous=NORMAL`: a reply that
was committed survives `kill -9`; a power cut may lose the last moments.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

from poise.data.corpus import canonical_json
from poise.errors import PoiseError
from poise.llm.exchange import ChatRequest, Reply, Shape

State = Literal["done", "refused", "filtered", "truncated", "invalid", "dead"]
"""How a request ended. "refused" and "filtered" are data; "truncated" hit the token limit; "invalid" gave no answer in
the shape asked for; "dead" got no reply in all its attempts."""
STATES: tuple[State, ...] = get_args(State)

_VERSION = "2"
_LONG = 400
"""Characters from which a system message is stored once for all requests."""
_TABLES = """
create table if not exists meta (key text primary key, value text not null) without rowid;
create table if not exists exchanges (
    identity text primary key, request text not null, state text not null, text text, value text, rung text,
    finish_reason text, prompt_tokens integer, completion_tokens integer, latency_s real, served_model text,
    logprobs text, refusal text, lane text, attempts integer not null, reason text);
create table if not exists texts (sha256 text primary key, text text not null) without rowid;
create table if not exists faults (
    identity text not null, lane text not null, kind text not null, reason text not null);
"""


@dataclass(frozen=True)
class Exchange:
    """A finished request.

    Args:
        identity: of the request.
        state: how it ended.
        reply: None when "dead" or "filtered" without a reply.
        value: the parsed structured answer, where one was asked for and given.
        rung: how a structured answer came about: "json_schema", "json_object", "text", "repaired", "asked again".
        lane: alias of the lane that answered.
        attempts: sends it took.
        reason: why it is not "done".
    """

    identity: str
    state: State
    reply: Reply | None = None
    value: Any = None
    rung: str | None = None
    lane: str | None = None
    attempts: int = 1
    reason: str | None = None


def outcome(request: ChatRequest, reply: Reply, error: str | None) -> tuple[State, str | None]:
    """How a request with this reply ended, and why it is not "done"; `error` is what its structure lacks."""
    if reply.refusal is not None:
        return "refused", "the server marks it as a refusal"
    if reply.finish_reason == "content_filter":
        return "filtered", "the provider's filter cut the answer"
    if reply.finish_reason == "length":
        return "truncated", f"reached max_tokens {request.max_tokens}"
    return ("done", None) if error is None else ("invalid", error)


class ReplyStore:
    """The file of replies; open it with `with`. One writing process at a time, and in it one thread at a time.

    Raises:
        PoiseError: the file is no store or of another version, or another process writes to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> Self:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = self.path.with_name(self.path.name + ".lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise PoiseError(
                "another process writes to this store", where=str(self.path), do="wait for it or stop it"
            ) from error
        try:
            self._texts: set[str] = set()
            self._db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
            self._db.execute("pragma journal_mode=wal")
            self._db.execute("pragma synchronous=normal")
            self._db.executescript(_TABLES)
            self._db.execute("insert or ignore into meta values ('version', ?)", [_VERSION])
            (version,) = self._db.execute("select value from meta where key = 'version'").fetchone()
        except sqlite3.Error as error:
            self._lock.close()
            raise PoiseError(f"no store of replies ({error})", where=str(self.path), do="name another file") from error
        if version != _VERSION:
            raise PoiseError(f"store of version {version}", where=str(self.path), do="use another file")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()
        self._lock.close()

    def finish(self, request: ChatRequest, exchange: Exchange) -> None:
        """Commit the end of a request; a "dead" one may be replaced by a later attempt, anything else stands.

        Raises:
            PoiseError: the disk is full (exit code 3).
        """
        reply = exchange.reply
        told = {} if reply is None else asdict(reply)
        logprobs = None if reply is None or reply.logprobs is None else json.dumps(reply.logprobs)
        row = (
            exchange.identity,
            canonical_json(self._slim(request)),
            exchange.state,
            told.get("text"),
            None if exchange.value is None else canonical_json(exchange.value),
            exchange.rung,
            told.get("finish_reason"),
            told.get("prompt_tokens"),
            told.get("completion_tokens"),
            told.get("latency_s"),
            told.get("served_model"),
            logprobs,
            told.get("refusal"),
            exchange.lane,
            exchange.attempts,
            exchange.reason,
        )
        marks = ", ".join("?" * len(row))
        self._write("delete from exchanges where identity = ? and state = 'dead'", [exchange.identity])
        self._write(f"insert or ignore into exchanges values ({marks})", row)

    def _write(self, sql: str, values: Sequence[Any]) -> None:
        try:
            self._db.execute(sql, values)
        except sqlite3.OperationalError as error:
            raise PoiseError(
                f"cannot be written ({error})", where=str(self.path), do="free some space and run it again", exit_code=3
            ) from error

    def _slim(self, request: ChatRequest) -> dict[str, Any]:
        """The request as JSON values; a long system message is put into `texts` and named by its hash."""
        told = asdict(request)
        messages: list[tuple[str, str | dict[str, str]]] = []
        for role, content in request.messages:
            if role != "system" or len(content) < _LONG:
                messages.append((role, content))
                continue
            digest = hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()
            if digest not in self._texts:
                self._write("insert or ignore into texts values (?, ?)", [digest, content])
                self._texts.add(digest)
            messages.append((role, {"sha256": digest}))
        return told | {"messages": messages}

    def request(self, identity: str) -> ChatRequest | None:
        """The request behind an identity, None when it has not ended."""
        row = self._db.execute("select request from exchanges where identity = ?", [identity]).fetchone()
        if row is None:
            return None
        told = json.loads(row[0])
        messages = tuple((role, self._text(content)) for role, content in told["messages"])
        return ChatRequest(**told | {"messages": messages, "stop": tuple(told["stop"])})

    def _text(self, content: str | dict[str, str]) -> str:
        if isinstance(content, str):
            return content
        text: str
        (text,) = self._db.execute("select text from texts where sha256 = ?", [content["sha256"]]).fetchone()
        return text

    def fault(self, identity: str, lane: str, kind: str, reason: str) -> None:
        """Commit a failed attempt.

        Raises:
            PoiseError: the disk is full (exit code 3).
        """
        self._write("insert into faults values (?, ?, ?, ?)", [identity, lane, kind, reason])

    def faults(self) -> dict[tuple[str, str], int]:
        """(lane, kind) -> failed attempts, the most frequent first."""
        rows = self._db.execute("select lane, kind, count(*) from faults group by lane, kind order by 3 desc")
        return {(lane, kind): count for lane, kind, count in rows}

    def state(self, identity: str) -> State | None:
        """How a request ended, None while it is pending."""
        row = self._db.execute("select state from exchanges where identity = ?", [identity]).fetchone()
        return None if row is None else row[0]

    def get(self, identity: str) -> Exchange | None:
        """The finished request, None while it is pending."""
        return next(self.exchanges([identity]), None)

    def exchanges(self, identities: Iterable[str] | None = None) -> Iterator[Exchange]:
        """Finished requests: those named, in that order, or all in the order in which they ended."""
        columns = (
            "identity, state, text, value, rung, finish_reason, prompt_tokens, completion_tokens, latency_s, "
            "served_model, logprobs, refusal, lane, attempts, reason"
        )
        if identities is None:
            yield from map(_exchange, self._db.execute(f"select {columns} from exchanges order by rowid"))
            return
        for identity in identities:
            yield from map(
                _exchange, self._db.execute(f"select {columns} from exchanges where identity = ?", [identity])
            )

    def counts(self) -> dict[State, int]:
        """Finished requests by state; every state is listed."""
        found = dict(self._db.execute("select state, count(*) from exchanges group by state"))
        return {state: found.get(state, 0) for state in STATES}


def _exchange(row: tuple[Any, ...]) -> Exchange:
    identity, state, text, value, rung, finish, prompt, completion, latency, served, logprobs, refusal, *rest = row
    lane, attempts, reason = rest
    reply = None
    if text is not None:
        tokens = None if logprobs is None else tuple((t, p, dict(a)) for t, p, a in json.loads(logprobs))
        shape: Shape = rung if rung in ("json_schema", "json_object") else "text"
        reply = Reply(text, finish, prompt, completion, latency, served, tokens, refusal, shape)
    parsed = None if value is None else json.loads(value)
    return Exchange(identity, state, reply, parsed, rung, lane, attempts, reason)
