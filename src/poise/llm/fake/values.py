"""A JSON value that satisfies a simple JSON schema, chosen by a seed.

Simple: types, properties, items, enum, const, bounds of numbers, lengths and counts, anyOf, oneOf, local $ref. Left
out: patterns, formats, uniqueItems, allOf, conditions; a schema that needs them may get a value that does not fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

MAX_DEPTH = 24
_SHALLOW = 4
"""Down to here everything that may be there is there; below, only what must be."""

Schema = Mapping[str, Any]


class Chooser:
    """Makes values.

    Args:
        root: the whole schema, to which references point.
        random: bytes, 0..255, as many as are asked for.
        words: so many words as one string.
    """

    def __init__(self, root: Schema, random: Iterator[int], words: Callable[[int], str]) -> None:
        self._root, self._random, self._words = root, random, words

    def value(self, schema: Schema | None = None, depth: int = 0) -> Any:
        """A value that fits the schema, by default the whole one.

        Raises:
            ValueError: it nests without end, or refers to nothing.
        """
        if depth > MAX_DEPTH:
            raise ValueError("the schema nests without end")
        schema = self._chosen(self._root if schema is None else schema, depth)
        if "const" in schema:
            return schema["const"]
        kind = schema.get("type") or (
            "object" if "properties" in schema else "array" if "items" in schema else "string"
        )
        if isinstance(kind, list):
            kind = kind[self._below(len(kind))]
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            least = schema.get("minItems", 0)
            most = int(min(schema.get("maxItems", math.inf), least + 3)) if depth <= _SHALLOW else least
            count = least + self._below(most - least + 1)
            return [self.value(schema.get("items", {}), depth + 1) for _ in range(count)]
        return self._scalar(kind, schema)

    def _below(self, count: int) -> int:
        return next(self._random) % count

    def _chosen(self, schema: Schema, depth: int) -> Schema:
        """The schema behind references, alternatives and lists of values; an enum's member comes back as a const."""
        for _ in range(MAX_DEPTH):
            choices = schema.get("anyOf") or schema.get("oneOf")
            if "$ref" in schema:
                schema = self._resolved(schema["$ref"])
            elif schema.get("enum"):
                return {"const": schema["enum"][self._below(len(schema["enum"]))]}
            elif choices:
                # far down the last one: by custom the simplest, as in {"anyOf": [{"$ref": ...}, {"type": "null"}]}
                schema = choices[-1 if depth > _SHALLOW else self._below(len(choices))]
            else:
                return schema
        raise ValueError("the schema refers to itself")

    def _object(self, schema: Schema, depth: int) -> dict[str, Any]:
        properties, required = schema.get("properties", {}), schema.get("required", ())
        names = {**properties, **{name: {} for name in required if name not in properties}}
        wanted = [name for name in names if depth <= _SHALLOW or name in required]
        return {name: self.value(names[name], depth + 1) for name in wanted}

    def _scalar(self, kind: str, schema: Schema) -> Any:
        if kind == "boolean":
            return self._below(2) == 1
        if kind == "null":
            return None
        if kind in ("integer", "number"):
            return self._number(schema, whole=kind == "integer")
        least = schema.get("minLength", 0)
        text = self._words(1 + self._below(8))
        while len(text) < least:
            text += " " + self._words(8)
        return text[: schema.get("maxLength", len(text))]

    def _number(self, schema: Schema, *, whole: bool) -> float:
        """A number within the bounds; never at the end of a range, so that exclusive bounds hold too."""
        low = schema.get("minimum", schema.get("exclusiveMinimum"))
        high = schema.get("maximum", schema.get("exclusiveMaximum"))
        low = low if low is not None else (0 if high is None else min(0, high - 10))
        high = high if high is not None else max(10, low + 10)
        step = schema.get("multipleOf", 1 if whole else None)
        if step is None:
            return float(low + (high - low) * (0.1 + 0.8 * self._below(256) / 255))
        first, last = math.ceil(low / step), math.floor(high / step)
        first += first * step == schema.get("exclusiveMinimum")
        last -= last * step == schema.get("exclusiveMaximum")
        found = (first + self._below(max(1, last - first + 1))) * step
        return int(found) if whole else float(found)

    def _resolved(self, reference: str) -> Schema:
        found: Any = self._root
        for part in reference.removeprefix("#").split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if not reference.startswith("#") or not isinstance(found, Mapping) or key not in found:
                raise ValueError("the schema refers to nothing")
            found = found[key]
        return found  # type: ignore[no-any-return]
