"""What can go wrong with a request, and how each API tells it.

An `ApiError` says what happened once; a shape writes it as the clients of one API expect it. No message quotes a text
that was sent. A guard that fails or can't say is 503, which no client reads as "safe".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """A kind of fault: its HTTP status, and its code and type as OpenAI writes them, Azure's code, Google's status."""

    status: int
    code: str
    type: str
    azure: str
    google: str


_WRONG, _SERVER = "invalid_request_error", "server_error"
KINDS: Mapping[str, Kind] = {
    "json": Kind(400, "invalid_json", _WRONG, "InvalidRequestBody", "INVALID_ARGUMENT"),
    "invalid": Kind(400, "invalid_value", _WRONG, "InvalidRequestBody", "INVALID_ARGUMENT"),
    "empty": Kind(400, "empty_input", _WRONG, "InvalidRequestBody", "INVALID_ARGUMENT"),
    "characters": Kind(400, "invalid_characters", _WRONG, "InvalidRequestBody", "INVALID_ARGUMENT"),
    "too_long": Kind(400, "string_above_max_length", _WRONG, "InvalidRequestBody", "INVALID_ARGUMENT"),
    "too_many": Kind(400, "array_above_max_length", _WRONG, "InvalidRequestBody", "INVALID_ARGUMENT"),
    "image": Kind(400, "image_input_not_supported", _WRONG, "InvalidRequestBody", "INVALID_ARGUMENT"),
    "unseen": Kind(404, "category_not_evaluated", _WRONG, "NotFound", "NOT_FOUND"),
    "no_key": Kind(401, "invalid_api_key", _WRONG, "Unauthorized", "UNAUTHENTICATED"),
    "scope": Kind(403, "missing_scope", "permission_error", "Forbidden", "PERMISSION_DENIED"),
    "model": Kind(404, "model_not_found", _WRONG, "NotFound", "NOT_FOUND"),
    "path": Kind(404, "unknown_url", _WRONG, "NotFound", "NOT_FOUND"),
    "method": Kind(405, "method_not_allowed", _WRONG, "MethodNotAllowed", "UNIMPLEMENTED"),
    "slow": Kind(408, "request_timeout", _WRONG, "RequestTimeout", "DEADLINE_EXCEEDED"),
    "too_large": Kind(413, "request_too_large", _WRONG, "RequestEntityTooLarge", "INVALID_ARGUMENT"),
    "media": Kind(415, "unsupported_media_type", _WRONG, "UnsupportedMediaType", "INVALID_ARGUMENT"),
    "rate": Kind(429, "rate_limit_exceeded", "rate_limit_error", "TooManyRequests", "RESOURCE_EXHAUSTED"),
    "queue": Kind(429, "queue_full", "rate_limit_error", "TooManyRequests", "RESOURCE_EXHAUSTED"),
    "bug": Kind(500, "internal_error", _SERVER, "InternalError", "INTERNAL"),
    "failed": Kind(503, "guard_unavailable", _SERVER, "ServiceUnavailable", "UNAVAILABLE"),
    "unjudged": Kind(503, "unjudged", _SERVER, "ServiceUnavailable", "UNAVAILABLE"),
}


class ApiError(Exception):
    """One request that gets no verdict.

    Args:
        kind: one of `KINDS`.
        message: for the person who reads it; never holds a text that was sent.
        param: which part of the request, None when it is not one part.
        retry_after: seconds after which it is worth trying again, None when it is not known.
    """

    def __init__(self, kind: str, message: str, *, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.name, self.kind = kind, KINDS[kind]
        self.message, self.param, self.retry_after = message, param, retry_after

    @property
    def headers(self) -> dict[str, str]:
        """Headers that go with it in every API: when to come back, and not to come back for nothing."""
        headers = {}
        if self.retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(self.retry_after)))
        if self.name == "unjudged":
            headers["x-should-retry"] = "false"  # the OpenAI SDK would send the same text three times
        if self.name == "no_key":
            headers["www-authenticate"] = "Bearer"
        return headers


class Told(NamedTuple):
    """A fault as it goes to the client: HTTP status, JSON body, headers."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]


Shape = Callable[[ApiError], Told]
"""Writes a fault as one API does."""


def openai_shape(fault: ApiError) -> Told:
    """OpenAI's, which vLLM and most servers share."""
    kind = fault.kind
    error = {"message": fault.message, "type": kind.type, "param": fault.param, "code": kind.code}
    return Told(kind.status, {"error": error}, fault.headers)


def azure_shape(fault: ApiError) -> Told:
    """Azure's: an error object, and its code in a header as well."""
    error: dict[str, Any] = {"code": fault.kind.azure, "message": fault.message, "details": []}
    if fault.param is not None:
        error["target"] = fault.param
    error["innererror"] = {"code": fault.kind.code}
    return Told(fault.kind.status, {"error": error}, fault.headers | {"x-ms-error-code": fault.kind.azure})


def google_shape(fault: ApiError) -> Told:
    """Google's."""
    details = [{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": fault.kind.code.upper()}]
    error = {
        "code": fault.kind.status,
        "message": fault.message,
        "status": fault.kind.google,
        "details": details,
    }
    return Told(fault.kind.status, {"error": error}, fault.headers)


_TEI_STATUS = {"json": 422, "invalid": 422, "characters": 422, "image": 422, "too_long": 422, "too_many": 422}
_TEI_TYPE = {400: "Empty", 429: "Overloaded", 503: "Unhealthy", 500: "Backend"}


def tei_shape(fault: ApiError) -> Told:
    """That of Text Embeddings Inference, with its own statuses for wrong input."""
    status = _TEI_STATUS.get(fault.name, fault.kind.status)
    return Told(status, {"error": fault.message, "error_type": _TEI_TYPE.get(status, "Validation")}, fault.headers)
