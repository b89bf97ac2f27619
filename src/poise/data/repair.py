"""What can be mended in a source row without guessing, before it becomes a record."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

_NUMBER = re.compile(r"(_id|_level|^severity|_severity)$")
_FLAG = re.compile(r"(^is_|_safe$|^safe$|^flagged$)")
_INTEGER = re.compile(r"-?(0|[1-9][0-9]{0,17})")  # fits 64 bits and reads back as it stood: "0042" is a name
_WORDS = {"true": True, "false": False, "yes": True, "no": False}
LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def repair_source_row(row: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The row with its mendable values mended, and what was done.

    Lone surrogates become U+FFFD, NaN becomes nothing, digits in a column of ids or levels become an integer, "true",
    "no" and the like in a column of flags become a boolean.
    """
    done: list[str] = []
    return {name: _value(name, value, done) for name, value in row.items()}, done


def _value(name: str, value: Any, done: list[str]) -> Any:
    if isinstance(value, dict):
        return {key: _value(key, inner, done) for key, inner in value.items()}
    if isinstance(value, list):
        return [_value(name, inner, done) for inner in value]
    if isinstance(value, float):
        return _number(name, value, done)
    return _text(name, value, done) if isinstance(value, str) else value


def _text(name: str, value: str, done: list[str]) -> Any:
    if _NUMBER.search(name) and _INTEGER.fullmatch(value.strip()):
        done.append(f"{name}: text to integer")
        return int(value)
    if _FLAG.search(name) and value.strip().casefold() in _WORDS:
        done.append(f"{name}: text to boolean")
        return _WORDS[value.strip().casefold()]
    if LONE_SURROGATE.search(value):
        done.append(f"{name}: lone surrogate")
        return LONE_SURROGATE.sub("\N{REPLACEMENT CHARACTER}", value)
    return value


def _number(name: str, value: float, done: list[str]) -> float | int | None:
    if math.isnan(value):
        done.append(f"{name}: not a number")
        return None
    if _NUMBER.search(name) and value.is_integer():
        done.append(f"{name}: float to integer")
        return int(value)
    return value
