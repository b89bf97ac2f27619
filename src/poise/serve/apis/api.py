"""What one API is: its route, its schemas, how a request becomes items, how verdicts become its answer.

The schema in the OpenAPI document is the one that requests are checked by, but for the pattern of texts, which
`poise.serve.limits` checks in linear time.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

from jsonschema import Draft202012Validator, ValidationError

from poise.guard.verdict import Item, Verdict
from poise.serve.faults import ApiError, Shape
from poise.serve.limits import TEXT_PATTERN, Limits

Schema = dict[str, Any]


@dataclass(frozen=True)
class About:
    """What the answers say of the guard, and what the operator decided.

    Args:
        guard: its name.
        version: of its weights, None where it has none.
        blocks: whether a verdict is blocked, where an API answers with an action.
        limits: of the server.
    """

    guard: str
    version: str | None
    blocks: Callable[[Verdict], bool]
    limits: Limits


class Asked(NamedTuple):
    """A request that was understood.

    Args:
        items: to judge.
        form: what the answer needs to know of the request.
    """

    items: list[Item]
    form: Mapping[str, Any]


@dataclass(frozen=True)
class Api:
    """One route in the words of its clients.

    Args:
        name: for metrics and logs.
        path: of the route; always POST.
        title: one line.
        request: the schema of the body under given limits.
        response: the schema of the answer.
        read: body that fits the schema, query, who we are -> what is asked.
        write: what was asked, one verdict an item, who we are -> the answer.
        shape: how faults are told.
        statuses: which faults it may tell beside 200.
        query: its query parameters as OpenAPI writes them.
        keys: where its clients put the key.
        unjudged: "refuse": one unjudged text makes the answer 503; "some": only when all are; "told": never, as the
            answer has a place for it.
    """

    name: str
    path: str
    title: str
    request: Callable[[Limits], Schema]
    response: Schema
    read: Callable[[Any, Mapping[str, str], About], Asked]
    write: Callable[[Asked, Sequence[Verdict], About], Any]
    shape: Shape
    fault_schema: Schema
    query: tuple[Schema, ...] = ()
    keys: tuple[str, ...] = ("bearer",)
    unjudged: Literal["refuse", "some", "told"] = "refuse"
    details: str = ""
    statuses: tuple[int, ...] = field(default=(400, 401, 403, 404, 408, 413, 415, 429, 500, 503))


def text_schema(limits: Limits) -> Schema:
    """A text that can be judged."""
    return {"type": "string", "minLength": 1, "maxLength": limits.text_characters, "pattern": TEXT_PATTERN}


def texts_schema(limits: Limits) -> Schema:
    """One to many of them."""
    return {"type": "array", "minItems": 1, "maxItems": limits.items, "items": text_schema(limits)}


def closed(properties: Schema, required: Sequence[str]) -> Schema:
    """An object with these properties alone."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


def new_id(prefix: str) -> str:
    """A fresh name for an answer."""
    return f"{prefix}{secrets.token_hex(12)}"


def validator_of(schema: Schema) -> Draft202012Validator:
    """Checks bodies; what only `check_items` can say of texts is left to it."""
    return Draft202012Validator(_without_patterns(schema))


def check_body(validator: Draft202012Validator, body: Any) -> None:
    """Raise on the first thing that does not fit, without quoting it.

    Raises:
        ApiError: what and where.
    """
    error = next(iter(validator.iter_errors(body)), None)
    if error is not None:
        raise _fault(_deepest(error))


def _deepest(error: ValidationError) -> ValidationError:
    """Inside alternatives: the first fault of the one that the value was meant to be, which is one whose names and
    types fit, or else the one with fewest faults; the alternatives themselves where none fits."""
    while error.context:
        options: dict[Any, list[ValidationError]] = {}
        for inner in error.context:
            options.setdefault(inner.relative_schema_path[0], []).append(inner)
        meant = [o for o in options.values() if o[0].validator != "type" or o[0].relative_path]
        if not meant:
            return error
        error = min(meant, key=lambda o: (any(map(_misnamed, o)), any(i.validator == "type" for i in o), len(o)))[0]
    return error


def _misnamed(error: ValidationError) -> bool:
    """Whether an alternative's own names, not those further inside, are others than those that were given."""
    return error.validator in {"required", "additionalProperties"} and not error.relative_path


_KINDS = {"minItems": "empty", "minLength": "empty", "maxLength": "too_long", "maxItems": "too_many"}


def _fault(error: ValidationError) -> ApiError:
    where = ".".join(map(str, error.absolute_path)) or None
    image = error.validator == "const" and error.validator_value == "text"
    kind = "image" if image else _KINDS.get(str(error.validator), "invalid")
    return ApiError(kind, f"{where or 'the body'} {_said(error)}", param=where)


def _said(error: ValidationError) -> str:
    rule, wanted, schema = str(error.validator), cast(Any, error.validator_value), cast(Any, error.schema)
    given = cast(Any, error.instance)
    if rule in {"anyOf", "oneOf"}:
        return "must be " + " or ".join(dict.fromkeys(str(option.get("type", "another value")) for option in wanted))
    if rule == "required":
        missing = [name for name in wanted if name not in given]
        return f"lacks {missing[0]!r}"
    if rule == "additionalProperties":
        odd = sorted(set(given) - set(schema.get("properties", {})))
        return f"has the unknown field {odd[0][:40]!a}"
    if rule == "const" and wanted == "text":
        return "is no text; images, audio and files are not judged here"
    if rule == "type":
        return "must be " + (" or ".join(wanted) if isinstance(wanted, list) else str(wanted))
    return {
        "minItems": "must not be empty",
        "minLength": "must not be empty",
        "minProperties": "must not be empty",
        "maxItems": f"has more than {wanted} entries" if wanted else "must be empty: there are none here",
        "maxLength": f"has more than {wanted} characters",
        "enum": f"must be one of {wanted}",
        "const": f"must be {wanted!r}",
    }.get(rule, f"breaks the rule {rule} {wanted}")


def _without_patterns(schema: Any) -> Any:
    if isinstance(schema, dict):
        left = {"pattern", "minLength"} if schema.get("pattern") == TEXT_PATTERN else set()
        return {key: _without_patterns(value) for key, value in schema.items() if key not in left}
    return [_without_patterns(entry) for entry in schema] if isinstance(schema, list) else schema
