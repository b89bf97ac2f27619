"""A client of a server that is no chat: one JSON document up, one down, behind the same seam as chat clients.

What came down is the reply's text, as canonical JSON, so the runner and the store keep moderation APIs as they keep
chats: resumable, with limits, faults and budgets. One request is one send. Every send ends within `timeout_s` and
`_MOST_BYTES`. The key goes into one header and nowhere else.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from yarl import URL

from poise.data.corpus import canonical_json
from poise.llm.exchange import ChatRequest, EndpointError, Reply, Shape
from poise.llm.http_faults import Asked, error_in, fault_of
from poise.llm.http_line import HttpLine, checked_address
from poise.llm.keys import Key
from poise.llm.wire import load_json, whole_text

_MOST_BYTES = 1 << 20


class JsonClient:
    """One lane to one route.

    Args:
        alias: what logs and the store call it.
        base_url: address of the server.
        route: path and query behind it.
        body: the document of a request.
        key: sent as `scheme` key in `header`.
        header, scheme: "Authorization" and "Bearer " unless the server wants others.
        timeout_s: wall clock for a whole request.

    Raises:
        PoiseError: an address that is none or carries credentials.
    """

    def __init__(
        self,
        alias: str,
        base_url: str,
        route: str,
        body: Callable[[ChatRequest], Mapping[str, Any]],
        *,
        key: Key | None = None,
        header: str = "Authorization",
        scheme: str = "Bearer ",
        timeout_s: float = 60.0,
    ) -> None:
        self.alias = alias
        self._url, self._body, self._key = URL(checked_address(base_url, alias) + route), body, key
        self._line = HttpLine(key, timeout_s, header=header, scheme=scheme)

    def __repr__(self) -> str:
        return f"JsonClient({self.alias!r})"

    async def send(self, request: ChatRequest, shape: Shape = "text") -> Reply:
        """One exchange.

        Raises:
            EndpointError: there is no reply.
        """
        data = json.dumps(self._body(request)).encode()
        return await self._line.reply(self._exchange(request, data))

    async def close(self) -> None:
        """Give connections back; a later `send` opens new ones."""
        await self._line.close()

    async def _exchange(self, request: ChatRequest, data: bytes) -> Reply | EndpointError:
        started, raw = time.perf_counter(), b""
        async with self._line.session().post(self._url, data=data, allow_redirects=False) as response:
            async for part in response.content.iter_any():
                raw += part
                if len(raw) > _MOST_BYTES:
                    return EndpointError("timeout", "the answer does not end")
            told = load_json(raw)
            if response.status != 200 or error_in(told) is not None:
                return fault_of(response.status, response.headers, raw, Asked(request, "text", self._key))
        if not isinstance(told, dict):
            return EndpointError("server", "an answer that is no JSON object", status=200)
        try:
            text = canonical_json(told)
        except ValueError:  # NaN and infinity are no JSON, and no score
            return EndpointError("server", "an answer with a number that is none", status=200)
        model, latency = told.get("model"), time.perf_counter() - started
        served = whole_text([model]) if isinstance(model, str) else ""
        return Reply(text, "stop", latency_s=latency, served_model=served)
