"""Answers from a recording: a run again without its server, byte for byte.

    recorder = Recorder(client, Path("answers.jsonl"))  # used in the client's place
    replay = Replay(Path("answers.jsonl"))              # the same answers, later and offline

One JSON line an exchange: the request's identity, how a structured answer was asked for, and the reply, or the fault
where the request itself was at fault (filtered, too long, unsupported). Faults of the line are not recorded. What is
left out: the requests themselves; whoever replays has them.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

from poise.data.corpus import canonical_json
from poise.errors import PoiseError
from poise.llm.exchange import FATAL, RETRYABLE, ChatClient, ChatRequest, EndpointError, Reply, Shape


class Recorder:
    """Writes down what another client is told, and passes it on.

    Args:
        client: does the work.
        path: appended to; a last line that a killed run left unfinished is cut off.

    Raises:
        PoiseError: it can't be written.
    """

    def __init__(self, client: ChatClient, path: Path) -> None:
        self.alias = client.alias
        self._client, self._path = client, path
        self._file: BinaryIO | None = None
        self._open()

    async def send(self, request: ChatRequest, shape: Shape = "text") -> Reply:
        """One exchange, recorded before it is passed on.

        Raises:
            EndpointError: what the other client raises.
            PoiseError: it can't be written.
        """
        line: dict[str, Any] = {"identity": request.identity, "shape": shape}
        try:
            reply = await self._client.send(request, shape)
        except EndpointError as error:
            if error.kind not in RETRYABLE | FATAL:
                self._write({**line, "fault": {"kind": error.kind, "reason": error.reason, "status": error.status}})
            raise
        self._write({**line, "reply": asdict(reply)})
        return reply

    async def close(self) -> None:
        """Close the other client and the file; a later `send` goes on with both."""
        file, self._file = self._file, None
        if file is not None:
            file.close()
        await self._client.close()

    def _open(self) -> BinaryIO:
        if self._file is None:
            try:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self._path.open("a+b", buffering=0)
                self._file.truncate(_end_of_last_line(self._file))
            except OSError as error:
                raise _unusable(self._path, error) from error
        return self._file

    def _write(self, told: dict[str, Any]) -> None:
        try:
            self._open().write(canonical_json(told).encode() + b"\n")
        except OSError as error:
            raise _unusable(self._path, error) from error


class Replay:
    """A client that answers from a recording; of several answers to one request the last.

    Args:
        path: written by a `Recorder`.
        alias: what logs and the store call it.

    Raises:
        PoiseError: no such file, or a line that is no exchange; names the line.
    """

    def __init__(self, path: Path, alias: str = "replay") -> None:
        self.alias = alias
        self._path = path
        try:
            with path.open("rb") as file:
                self._places = _places(file, path)
        except OSError as error:
            raise _unusable(path, error) from error

    async def send(self, request: ChatRequest, shape: Shape = "text") -> Reply:
        """The recorded answer.

        Raises:
            EndpointError: the recorded fault; "request" when the recording does not have this request.
        """
        identity = request.identity
        place = self._places.get((identity, shape))
        if place is None:
            raise EndpointError("request", f"the recording has no answer to request {identity} asked for as {shape}")
        with self._path.open("rb") as file:
            file.seek(place)
            told = json.loads(file.readline())
        if "fault" in told:
            raise EndpointError(told["fault"]["kind"], told["fault"]["reason"], status=told["fault"]["status"])
        reply = told["reply"]
        logprobs = reply.pop("logprobs")
        tokens = None if logprobs is None else tuple((token, own, more) for token, own, more in logprobs)
        return Reply(**reply, logprobs=tokens)

    async def close(self) -> None:
        """Nothing to give back."""


def _places(file: BinaryIO, path: Path) -> dict[tuple[str, str], int]:
    """(identity, shape) -> where its line begins."""
    places, at = {}, 0
    for number, line in enumerate(file, 1):
        if not line.endswith(b"\n"):
            break  # cut off by a kill
        told = _exchange(line)
        if told is None:
            raise PoiseError("no recorded exchange", where=f"{path}:{number}", do="record it again")
        places[told["identity"], told["shape"]] = at
        at += len(line)
    return places


def _exchange(line: bytes) -> dict[str, Any] | None:
    try:
        told = json.loads(line)
    except ValueError:
        return None
    known = isinstance(told, dict) and {"identity", "shape"} <= set(told) and ("reply" in told or "fault" in told)
    return told if known else None


def _end_of_last_line(file: BinaryIO) -> int:
    """Where the last whole line ends."""
    end = file.seek(0, 2)
    while end > 0:
        start = max(0, end - 65536)
        file.seek(start)
        found = file.read(end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0


def _unusable(path: Path, error: OSError) -> PoiseError:
    return PoiseError(f"can't be used ({error.strerror})", where=str(path), do="name another file", exit_code=3)
