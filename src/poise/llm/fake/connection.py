"""HTTP/1.1 on one connection, as much of it as real clients need: keep-alive, pipelining, both kinds of body, streams.

Written on `asyncio.Protocol` because a test server must cost less than the client that it tests. What is strict stays
strict: two lengths, a length beside chunks, or a bare line feed are refused, so a client's framing bug shows. Left out:
trailers (skipped), upgrades, compression.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

MAX_HEAD = 64 * 1024
MAX_BODY = 64 * 1024 * 1024
_REASONS = {status.value: status.phrase for status in HTTPStatus}


class HttpRequest(NamedTuple):
    """One request. Args: `headers` have lower-case names; `path` is without the query."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class BadRequest(Exception):  # noqa: N818 - the name of the status
    """What came is no HTTP. Args: `status` to answer before the connection is closed."""

    def __init__(self, status: int) -> None:
        self.status = status
        super().__init__(status)


class Connection(asyncio.Protocol):
    """Takes requests off one connection, one at a time and in order.

    Args:
        handle: is given each request and answers it through `respond`, or `start_stream`, `write`, `end`, now or later.
        opened: the set of connections that this one belongs to while it is open.
    """

    def __init__(self, handle: Callable[[HttpRequest, Connection], None], opened: set[Connection]) -> None:
        self._handle, self._opened = handle, opened
        self._buffer = bytearray()
        self._head: _Head | None = None
        self._busy = False
        self._chunked_out = False
        self._timer: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport | None = None
        self.on_done: Callable[[], None] | None = None
        """Called once when the answer is complete or the client has gone away."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The client is there."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._opened.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone."""
        self.transport = None
        self._opened.discard(self)
        self._done()

    def data_received(self, data: bytes) -> None:
        """Bytes of requests."""
        self._buffer += data
        if self._busy:
            if len(self._buffer) > MAX_BODY:
                self.abort()
            return
        self._advance()

    def respond(self, status: int, body: bytes, content_type: str = "application/json", **headers: str) -> None:
        """Answer with a whole body; in names of headers `_` stands for a hyphen."""
        head = self._status_line(status, content_type, headers)
        if self.transport is not None:
            self._write(b"%sContent-Length: %d\r\n\r\n%s" % (head, len(body), b"" if self._is_head else body))
        self._finish()

    def start_stream(self, content_type: str) -> None:
        """Begin an answer of unknown length."""
        self._chunked_out = self._head is not None and self._head.version == "HTTP/1.1"
        coding = b"Transfer-Encoding: chunked\r\n\r\n" if self._chunked_out else b"\r\n"
        self._write(self._status_line(200, content_type, {}) + coding)

    def write(self, data: bytes) -> None:
        """A part of the stream."""
        self._write(b"%x\r\n%s\r\n" % (len(data), data) if self._chunked_out else data)

    def end(self, last: bytes = b"") -> None:
        """The last part of the stream."""
        if self._chunked_out:
            self._write((b"%x\r\n%s\r\n" % (len(last), last) if last else b"") + b"0\r\n\r\n")
        else:
            self._write(last)
        self._finish()

    def promise(self, length: int, part: bytes) -> None:
        """Announce a body of `length` bytes, send a part of it and hang up."""
        head = self._status_line(200, "application/json", {})
        self._write(b"%sContent-Length: %d\r\n\r\n%s" % (head, length, part))
        self.close()

    def later(self, delay_s: float, callback: Callable[..., None], *args: Any) -> None:
        """Go on with the answer in a while, unless the client goes away."""
        self._timer = asyncio.get_running_loop().call_later(delay_s, callback, *args)

    def close(self) -> None:
        """Hang up after what is written; what was promised and not written stays missing."""
        if self.transport is not None:
            self.transport.close()

    def abort(self) -> None:
        """Hang up at once."""
        if self.transport is not None:
            self.transport.abort()

    @property
    def _is_head(self) -> bool:
        return self._head is not None and self._head.method == "HEAD"

    def _write(self, data: bytes) -> None:
        if self.transport is not None:
            self.transport.write(data)

    def _status_line(self, status: int, content_type: str, headers: Mapping[str, str]) -> bytes:
        extra = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        if self._head is None or not self._head.keep_alive:
            extra += "Connection: close\r\n"
        reason = _REASONS.get(status, "Status")
        return f"HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\n{extra}".encode("latin-1")

    def _done(self) -> None:
        self._busy = False
        if self._timer is not None:
            self._timer.cancel()
        done, self.on_done = self.on_done, None
        if done is not None:
            done()

    def _finish(self) -> None:
        """An answer is complete: hang up, or take the next request."""
        keep = self._head is not None and self._head.keep_alive
        self._head = None
        self._done()
        if not keep:
            self.close()
        elif self._buffer:
            asyncio.get_running_loop().call_soon(self._advance)

    def _advance(self) -> None:
        """Hand out the next request when all of it is here."""
        if self._busy or self.transport is None or self.transport.is_closing():
            return
        try:
            request = self._parse()
        except BadRequest as error:
            self._head = None
            self.respond(error.status, b'{"error":{"message":"malformed HTTP","type":"invalid_request_error"}}')
            return
        if request is not None:
            self._busy = True
            self._handle(request, self)

    def _parse(self) -> HttpRequest | None:
        if self._head is None:
            while self._buffer.startswith(b"\r\n"):  # an empty line before a request is to be ignored
                del self._buffer[:2]
            if self._buffer and not self._buffer[:1].isalpha():  # TLS, for one
                raise BadRequest(400)
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0 or end > MAX_HEAD:
                if len(self._buffer) > MAX_HEAD:
                    raise BadRequest(431)
                return None
            self._head = _head(bytes(self._buffer[:end]))
            del self._buffer[: end + 4]
            if self._head.expects and not self._buffer:
                self._write(b"HTTP/1.1 100 Continue\r\n\r\n")
        head = self._head
        if head.length is None:
            body = _unchunk(self._buffer)
            if body is None:
                return None
        elif len(self._buffer) < head.length:
            return None
        else:
            body = bytes(self._buffer[: head.length])
            del self._buffer[: head.length]
        return HttpRequest(head.method, head.path, head.headers, body)


class _Head(NamedTuple):
    """Start line and headers. Args: `length` of the body, None when it comes in chunks."""

    method: str
    path: str
    version: str
    headers: dict[str, str]
    length: int | None
    keep_alive: bool
    expects: bool


def _head(raw: bytes) -> _Head:
    first, *lines = raw.decode("latin-1").split("\r\n")
    parts = first.split(" ")
    if len(parts) != 3 or parts[2] not in ("HTTP/1.1", "HTTP/1.0") or "\n" in first:
        raise BadRequest(400)
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or not name or name != name.strip() or "\n" in line:
            raise BadRequest(400)
        if name in ("content-length", "transfer-encoding") and name in headers:
            raise BadRequest(400)
        headers[name] = value.strip()
    length: int | None = 0
    given = headers.get("content-length")
    if "transfer-encoding" in headers:
        if given is not None or headers["transfer-encoding"].lower() != "chunked":
            raise BadRequest(400)
        length = None
    elif given is not None:
        if not (given.isascii() and given.isdigit()):
            raise BadRequest(400)
        length = int(given)
        if length > MAX_BODY:
            raise BadRequest(413)
    wish = headers.get("connection", "").lower()
    keep_alive = "keep-alive" in wish if parts[2] == "HTTP/1.0" else "close" not in wish
    expects = headers.get("expect", "").lower() == "100-continue"
    return _Head(parts[0], parts[1].partition("?")[0], parts[2], headers, length, keep_alive, expects)


def _unchunk(buffer: bytearray) -> bytes | None:
    """Take a chunked body off the buffer, None while it is not all there."""
    at, body = 0, bytearray()
    while True:
        end = buffer.find(b"\r\n", at)
        if end < 0:
            if len(buffer) - at > 1024:
                raise BadRequest(400)
            return None
        size_text = buffer[at:end].partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9a-fA-F]{1,8}", size_text):
            raise BadRequest(400)
        size = int(size_text, 16)
        if len(body) + size > MAX_BODY:
            raise BadRequest(413)
        if size == 0:
            break
        start = end + 2
        if len(buffer) < start + size + 2:
            return None
        if buffer[start + size : start + size + 2] != b"\r\n":
            raise BadRequest(400)
        body += buffer[start : start + size]
        at = start + size + 2
    # the last chunk is followed by trailers, each on a line, and an empty line
    at = end
    while buffer[at : at + 4] != b"\r\n\r\n":
        following = buffer.find(b"\r\n", at + 2)
        if following < 0:
            if len(buffer) - at > MAX_HEAD:
                raise BadRequest(431)
            return None
        at = following
    del buffer[: at + 4]
    return bytes(body)
