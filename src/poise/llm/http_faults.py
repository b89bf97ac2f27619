"""What went wrong, told from a server's answer: status, headers, and the words of the servers we know.

A fault's reason is one line. It may quote the server's message, which helps, but never a message that repeats anything
of the prompt or the key, and none at all where the key was refused. Messages known here: OpenAI, Azure, vLLM, SGLang,
llama.cpp, Ollama; others fall back on the status.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from poise.llm.exchange import ChatRequest, EndpointError, FaultKind, Shape
from poise.llm.keys import Key
from poise.llm.wire import load_json

_FILTERED = re.compile(
    r"content[ _](management |policy |filter)|content_policy|usage polic|responsibleai|data_?inspection", re.I
)
_TOO_LONG = re.compile(
    r"context[ _](length|size|window)|context_length_exceeded|exceed_context_size|maximum model length"
    r"|(prompt|input)[^.]{0,40} too (long|large)|input (length|token)[^.]{0,60} exceed|reduce the length"
    r"|max_tokens must be at least 1, got -|string_above_max_length",
    re.I,
)
_NO_MODEL = re.compile(
    r"model_not_found|unknown model|no such model|invalid model|not a valid model"
    r"|\bmodels?\b.{0,200}(not found|does not exist|doesn't exist|not exist|is not (available|loaded|served))",
    re.I,
)
_SHAPE = re.compile(
    r"response_?format|json_?(schema|object)|json schema|structured output|guided|grammar|requested parameters", re.I
)
_PREFILL = re.compile(r"continue_final_message|add_generation_prompt|prefill|(last|final) message", re.I)
_NO_CREDIT = re.compile(r"insufficient_quota|insufficient[ _](balance|credit|funds)", re.I)
_TOO_LARGE_FOR_LIMIT = re.compile(r"request too large", re.I)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|d|h|m|s)")
_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_WINDOW = 16
"""Characters in a row that a message may not share with a prompt."""


class Asked(NamedTuple):
    """What a fault is judged against. Args: `key` that was sent, which no reason may quote."""

    request: ChatRequest
    shape: Shape
    key: Key | None


def error_in(told: Any) -> dict[str, Any] | None:
    """The error in a JSON answer, wherever this server puts it; None when there is none."""
    if not isinstance(told, Mapping):
        return None
    found = told.get("error")
    if found is None and (
        told.get("object") == "error" or ("choices" not in told and {"message", "detail"} & set(told))
    ):
        found = told
    if not found:
        return None
    found = dict(found) if isinstance(found, Mapping) else {"message": found}
    if isinstance(details := found.pop("detail", None), list):  # a list of what pydantic finds wrong
        places = [(d.get("loc"), d.get("msg")) for d in details if isinstance(d, Mapping)]
        found["message"] = "; ".join(f"{loc}: {message}" for loc, message in places)
    elif details is not None:
        found.setdefault("message", details)
    return found


def fault_of(status: int, headers: Mapping[str, str], body: bytes, asked: Asked) -> EndpointError:
    """The fault behind an answer that is none.

    Args:
        status: of HTTP; when it is below 400 the code inside the error counts.
        headers: looked up without regard to case.
        body: as it came.
    """
    error = error_in(load_json(body[:1_000_000])) or {}
    if status < 300 and error:
        code = error.get("code")
        status = code if isinstance(code, int) and 400 <= code < 600 else 500
    message = str(error.get("message") or "")[:2000]
    labels = [str(error.get(name) or "") for name in ("code", "type", "param")]
    inner = error.get("innererror")
    labels.append(str(inner.get("code", "")) if isinstance(inner, Mapping) else "")
    kind, words = _judge(status, " ".join([message, *labels]), bool(error), asked)
    reason = f"HTTP {status}: {words}"
    if kind in ("request", "unsupported", "too-long", "model", "server") and (quote := quotable(message, asked)):
        reason += f" ({quote})"
    wait = retry_after(headers) if kind in ("rate-limited", "overloaded") else None
    return EndpointError(kind, reason, retry_after_s=wait, status=status)


def _judge(status: int, said: str, explained: bool, asked: Asked) -> tuple[FaultKind, str]:
    """Kind and our own words; `said` is all that the error says."""
    if status < 300:
        return "server", "an answer that is no answer"
    if status < 400:
        return "model", "the server points to another address; give that one"
    for kind, words, holds in (
        ("filtered", "the provider's filter refused the prompt", status < 500 and _FILTERED.search(said)),
        ("unsupported", "no structured output of this shape", _asks_shape(asked) and _SHAPE.search(said)),
        ("unsupported", "no logprobs", asked.request.logprobs and "logprob" in said.lower()),
        ("unsupported", "no prefill", asked.request.prefill is not None and _PREFILL.search(said)),
        ("too-long", "prompt longer than the context", status == 413 or (status != 429 and _TOO_LONG.search(said))),
        (
            "too-long",
            "more tokens than the rate limit lets through",
            status == 429 and _TOO_LARGE_FOR_LIMIT.search(said),
        ),
        ("key", "no credit left", status == 402 or (status == 429 and _NO_CREDIT.search(said))),
        ("key", "the key is refused", status in (401, 403, 407)),
        ("model", "no such model", status in (400, 404, 422) and _NO_MODEL.search(said)),
        ("model", "nothing there; base_url ends in /v1 at most servers", status in (404, 405, 410)),
        ("timeout", "the server waited too long", status == 408),
        ("rate-limited", "too many requests", status == 429),
        ("overloaded", "the server is overloaded", status in (503, 529)),
        ("server", "the server failed" + ("" if explained else " and does not say why"), status >= 500),
    ):
        if holds:
            return kind, words  # type: ignore[return-value]
    return "request", "the server refuses the request"


def _asks_shape(asked: Asked) -> bool:
    return asked.request.schema is not None and asked.shape != "text"


def quotable(message: str, asked: Asked) -> str:
    """The message on one line, cut; empty when it repeats anything of the prompt or the key, or isn't plain ASCII."""
    line = " ".join(message.split())
    secret, request = asked.key.reveal() if asked.key else "", asked.request
    if not (line.isascii() and line.isprintable()):
        return ""
    if any(secret[at : at + 6] in line for at in range(max(1, len(secret) - 5)) if secret):
        return ""
    line = line[:200]
    texts = [*(content for _, content in request.messages), request.prefill or "", *request.stop]
    for text in (" ".join(text.split()) for text in texts):
        if 2 < len(text) < _WINDOW and text in line:
            return ""
        if any(line[at : at + _WINDOW] in text for at in range(max(1, len(line) - _WINDOW + 1)) if line):
            return ""
    return line


def retry_after(headers: Mapping[str, str]) -> float | None:
    """How long the server asks to wait, in seconds, never negative; None when it does not say.

    First `retry-after-ms`, then `Retry-After` (seconds or a date, by the server's own clock where it shows it), then
    OpenAI's `x-ratelimit-reset-requests` and `-tokens` ("1s", "6m0s", "12ms"): of those whose remainder is 0 the
    longer, otherwise the longer of both.
    """
    if re.fullmatch(r"\d{1,12}(\.\d+)?", told := headers.get("retry-after-ms", "")):
        return float(told) / 1000
    told = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", told):
        return float(told)
    if told and (at := _date(told)) is not None:
        now = _date(headers.get("Date", ""))
        return max(0.0, at - (time.time() if now is None else now))
    spent, waits = [], []
    for what in ("requests", "tokens"):
        if (wait := duration(headers.get(f"x-ratelimit-reset-{what}", ""))) is not None:
            waits.append(wait)
            if headers.get(f"x-ratelimit-remaining-{what}", "").strip() == "0":
                spent.append(wait)
    return max(spent or waits, default=None)


def duration(text: str) -> float | None:
    """Seconds of "1h2m3.5s", "20ms" or "7"; None for anything else."""
    text = text.strip()
    if re.fullmatch(r"\d{1,9}(\.\d+)?", text):
        return float(text)
    if not re.fullmatch(rf"({_DURATION.pattern}){{1,5}}", text):
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in _DURATION.findall(text))


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
