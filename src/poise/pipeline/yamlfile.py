"""YAML as recipes use it: YAML 1.2 plain values, line numbers for every key, duplicate keys found.

PyYAML's `SafeLoader` reads YAML 1.1, where `1e-5` is text, `no` is false, `010` is eight and `1:30` is ninety. Here
`1e-5` is a number, only `true` and `false` are booleans, and `010`, `1:30` and dates are text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from poise.errors import PoiseError

KeyPath = tuple[str, ...]
"""Keys and list positions from the top of the file, all as text."""

_MOST_KEYS = 20_000
_RESOLVERS = (
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    ("int", r"^[-+]?(?:0|[1-9][0-9_]*)$", list("-+0123456789")),
    (
        "float",
        r"^[-+]?(?:(?:\.[0-9]+|[0-9]+\.[0-9]*)(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)$",
        list("-+.0123456789"),
    ),
)


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012  # PyYAML's own way of replacing the table


class _Dumper(yaml.SafeDumper):
    """Quotes what either YAML version would take for something other than text."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """Line separators other than a newline survive only in double quotes."""
    style = '"' if set(text) & set("\x85\u2028\u2029\ufeff") else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)
for _name, _pattern, _first in _RESOLVERS:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(_pattern), _first)
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(_pattern), _first)


@dataclass(frozen=True)
class Document:
    """A parsed file: its value, the line (from 1) of every key, and keys given twice (path, first and second line)."""

    value: Any
    lines: dict[KeyPath, int]
    duplicates: list[tuple[KeyPath, int, int]]


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, with or without byte order mark.

    Raises:
        PoiseError: missing, a folder, unreadable, or not UTF-8.
    """
    try:
        if path.is_dir():
            raise PoiseError("is a folder, not a recipe", where=str(path), do="name the YAML file in it")
        return path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError as error:
        raise PoiseError("no such file", where=str(path), do="check the path of the recipe") from error
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 text (byte 0x{error.object[error.start]:02x} at position {error.start})"
        raise PoiseError(what, where=str(path), do="save it as UTF-8") from error
    except OSError as error:
        raise PoiseError(f"cannot be read: {error.strerror or error}", where=str(path), exit_code=3) from error


def parse(text: str, where: str) -> Document:
    """Parse one YAML document.

    Raises:
        PoiseError: broken YAML, with its line; nested too deeply or too large.
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        keys = [] if node is None else list(islice(_keys(node), _MOST_KEYS + 1))
        value = None if node is None else loader.construct_document(node)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f"line {mark.line + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be parsed"
        raise PoiseError(f"{at}no valid YAML: {problem}", where=where) from error
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise PoiseError(f"no valid YAML: {reason}", where=where) from error
    if len(keys) > _MOST_KEYS:
        raise PoiseError(f"holds more than {_MOST_KEYS} keys", where=where, do="put data into a file of its own")
    lines: dict[KeyPath, int] = {}
    duplicates = []
    for path, line in keys:
        if path in lines:
            duplicates.append((path, lines[path], line))
        else:
            lines[path] = line
    return Document(value, lines, duplicates)


def dump(value: Any) -> str:
    """YAML text that `parse` reads back as the same value, keys in the order given."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def not_plain(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, str]]:
    """Everything that JSON cannot hold: keys that are no text, numbers that are not finite, explicit YAML tags."""
    if isinstance(value, dict):
        for key, item in value.items():
            if isinstance(key, str):
                yield from not_plain(item, (*path, key))
            else:
                yield (*path, str(key)), "a key must be text; put it in quotes"
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from not_plain(item, (*path, str(position)))
    elif isinstance(value, float) and not math.isfinite(value):
        yield path, f"{value} is not a finite number"
    elif value is not None and not isinstance(value, (str, bool, int, float)):
        yield path, f"a YAML {type(value).__name__} cannot be used here; use text, numbers, true, false, lists"


def _keys(node: yaml.Node, path: KeyPath = (), above: tuple[yaml.Node, ...] = ()) -> Iterator[tuple[KeyPath, int]]:
    """Path and line of every key and list item below `node`, in file order."""
    if any(node is other for other in above):
        raise ValueError(f"line {node.start_mark.line + 1}: an alias contains itself")
    if isinstance(node, yaml.MappingNode):
        children = [(str(key.value), key.start_mark.line + 1, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [(str(i), item.start_mark.line + 1, item) for i, item in enumerate(node.value)]
    else:
        return
    for name, line, value in children:
        yield (*path, name), line
        yield from _keys(value, (*path, name), (*above, node))
