"""Turns what pydantic says about a settings section into what a person can act on."""

from __future__ import annotations

import typing
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from pydantic import BaseModel, RootModel, ValidationError

from poise.pipeline.yamlfile import KeyPath

_IN_OUR_WORDS = {
    "missing": "is missing",
    "model_type": "expected a section with keys",
    "union_tag_not_found": "does not say which kind it is",
}


def unknown_key(key: str, valid: Iterable[str]) -> str:
    """The sentence about a misspelt key: the nearest valid one, or all of them when none is near."""
    names = list(valid)
    near = get_close_matches(key, names, n=1, cutoff=0.5)
    return f"unknown key; did you mean {near[0]!r}?" if near else f"unknown key; valid are {', '.join(names) or 'none'}"


def explain(error: ValidationError, model: type[BaseModel], data: Any) -> list[tuple[KeyPath, str]]:
    """One (path below the section, sentence) for each key that is wrong, in pydantic's order.

    Args:
        error: from validating `data` with `model`.
        model: the section's settings.
        data: the section as read from the file.
    """
    found: dict[KeyPath, list[str]] = {}
    for item in error.errors(include_url=False):
        path = _path_in_file(item["loc"], data, missing=item["type"] == "missing")
        found.setdefault(path, []).append(_sentence(item, model))
    return [(path, _join(sentences)) for path, sentences in found.items()]


def _sentence(item: Any, model: type[BaseModel]) -> str:
    if item["type"] == "extra_forbidden":
        *above, key = item["loc"]
        return unknown_key(str(key), _fields(model, above))
    if item["type"] in _IN_OUR_WORDS:
        return _IN_OUR_WORDS[item["type"]]
    got = f"got {item['input']!r}"
    message = item["msg"].removeprefix("Value error, ")
    if len(got) > 80:
        got = got[:77] + "..."
    if message.startswith("Input should be "):
        return f"{got}, expected {message.removeprefix('Input should be ')}"
    return f"{got}: {message[0].lower()}{message[1:]}"


def _join(sentences: list[str]) -> str:
    """Union members each have their say about one value: keep the first sentence and the others' expectations."""
    first, *rest = dict.fromkeys(sentences)
    return " or ".join([first, *(text.rpartition(", expected ")[2] for text in rest)])


def _path_in_file(loc: tuple[int | str, ...], data: Any, *, missing: bool) -> KeyPath:
    """`loc` without the steps that exist only inside pydantic (union tags, validator names)."""
    path: list[str] = []
    for position, step in enumerate(loc):
        in_file = step in data if isinstance(data, dict) else isinstance(data, list) and isinstance(step, int)
        if in_file:
            data = data[step]
        if in_file or (missing and position == len(loc) - 1):
            path.append(str(step))
    return tuple(path)


def _fields(model: type[BaseModel], above: list[Any]) -> list[str]:
    """Names that are valid where `above` leads: the fields of the model, or of every union member, found there."""
    models = [model]
    for step in above:
        if any(issubclass(m, RootModel) for m in models):  # a section of names: below each is what its values are
            models = [inner for m in models for inner in _models_in(m.model_fields["root"].annotation)]
            continue
        named = [m.model_fields[step].annotation for m in models if step in m.model_fields]
        models = [inner for annotation in named for inner in _models_in(annotation)] or models
    return list(dict.fromkeys(name for m in models for name in m.model_fields))


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in _models_in(argument)]
