"""The line to one server: kept connections, a wall clock for each exchange, faults of ours for what breaks.

A key goes into one header and nowhere else. The exceptions of the HTTP library hold that header, so none of them is
kept as a cause or a context.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Awaitable
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from poise import __version__
from poise.errors import PoiseError
from poise.llm.exchange import EndpointError, Reply
from poise.llm.keys import Key

_KEEP_ALIVE_S = 4.0
"""Shorter than the 5 seconds after which uvicorn (vLLM, SGLang) hangs up, so that no request meets a closing line."""
_CONNECT_S = 20.0


class HttpLine:
    """Connections to one server with one key, opened anew in another event loop.

    Args:
        key: sent as `scheme` key in `header`.
        timeout_s: wall clock for a whole exchange.
        verify: False takes any certificate; a path names the certificates to trust.

    Raises:
        PoiseError: no certificates at that path.
    """

    def __init__(
        self,
        key: Key | None,
        timeout_s: float,
        *,
        header: str = "Authorization",
        scheme: str = "Bearer ",
        verify: bool | Path = True,
    ) -> None:
        self._key, self._timeout_s, self._header, self._scheme = key, timeout_s, header, scheme
        self._ssl = _trusted(verify) if isinstance(verify, Path) else verify
        self._session: aiohttp.ClientSession | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def session(self) -> aiohttp.ClientSession:
        """That of the running event loop."""
        loop = asyncio.get_running_loop()
        if self._session is None or self._loop is not loop:
            headers = {"User-Agent": f"poise/{__version__}", "Content-Type": "application/json"}
            headers["Accept-Encoding"] = "identity"
            if self._key is not None:
                headers[self._header] = self._scheme + self._key.reveal()
            self._loop = loop
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S, ssl=self._ssl),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),
                headers=headers,
            )
        return self._session

    async def close(self) -> None:
        """Give connections back; a later `session` opens new ones."""
        session, self._session = self._session, None
        if session is not None and self._loop is asyncio.get_running_loop():
            await session.close()

    async def reply(self, exchange: Awaitable[Reply | EndpointError]) -> Reply:
        """What an exchange over this line ends with.

        Raises:
            EndpointError: there is no reply; of the kinds that `exchange.FaultKind` lists.
        """
        found: Reply | EndpointError
        try:
            async with asyncio.timeout(self._timeout_s):
                found = await exchange
        except aiohttp.ClientError as error:
            found = _fault_of(error)
        except TimeoutError:
            found = EndpointError("timeout", f"no complete answer within {self._timeout_s:g} s")
        except OSError as error:
            found = _fault_of(error)
        if isinstance(found, EndpointError):
            raise found  # here, so that no exception of the library and no frame with the server's words goes with it
        return found


def checked_address(base_url: str, alias: str) -> str:
    """The address without a slash at its end.

    Raises:
        PoiseError: it is none or carries credentials; the error does not quote it, since it may hold a password.
    """
    try:
        parts = urlsplit(base_url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good, parts = False, urlsplit("")
    where = f"base_url of {alias!r}"
    if not good or any(c.isspace() for c in base_url):
        raise PoiseError("no address", where=where, do="write it like https://host:port/v1")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise PoiseError("carries credentials or a query", where=where, do="leave them out; a key is given as a key")
    return base_url.rstrip("/")


def _fault_of(error: Exception) -> EndpointError:
    """What the HTTP library met. Names the kind of error only: its text may hold the address."""
    name = type(error).__name__
    if isinstance(error, aiohttp.ClientSSLError | ssl.SSLError):
        return EndpointError("certificate", f"no trust in the server's certificate, or no TLS at all ({name})")
    if isinstance(error, aiohttp.ClientPayloadError):
        return EndpointError("server", "half an answer: the connection was closed in the middle of it")
    if isinstance(error, aiohttp.ClientConnectorError):
        code = error.os_error.errno  # its text would hold the address
        return EndpointError("connection", f"can't connect ({os.strerror(code) if code and code > 0 else name})")
    if isinstance(error, aiohttp.ServerTimeoutError):
        return EndpointError("connection", f"can't connect within {_CONNECT_S:g} s")
    if isinstance(error, aiohttp.ServerDisconnectedError | OSError):
        return EndpointError("connection", f"the connection was closed before an answer ({name})")
    return EndpointError("server", f"an answer that is no HTTP ({name})")


def _trusted(certificates: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(certificates))
    except (OSError, ssl.SSLError) as error:
        raise PoiseError("no certificates", where=str(certificates), do="name a file of PEM certificates") from error
