"""A recipe: one YAML file with a name, a seed, the models, and one section for each stage of the run.

All defaults live in the stages' settings models. An unknown key, a key given twice or a value of the wrong type is
an error; every problem of a recipe is reported at once, in file order. The order of the stages is fixed by the table
they are looked up in, never by the file. Nothing here loads a model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from poise.errors import PoiseError
from poise.pipeline.context import Stage
from poise.pipeline.explain import explain, unknown_key
from poise.pipeline.yamlfile import Document, KeyPath, dump, not_plain, parse, read_text

M = TypeVar("M", bound=BaseModel)


class Models(BaseModel):
    """Which model plays which role: a bundled name, a folder, or a Hugging Face id."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    policy: str = Field(default="smollm2-135m-instruct", min_length=1)
    encoder: str = Field(default="all-minilm-l6-v2", min_length=1)


class Head(BaseModel):
    """The top of a recipe; everything else in it is a stage."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    seed: int = Field(default=0, ge=0, lt=2**63)
    models: Models = Models()


@dataclass(frozen=True)
class Recipe:
    """A checked recipe.

    Args:
        name: names the run folder.
        seed: root of all randomness.
        models: role -> model name or path.
        settings: stage -> its settings with all defaults, in running order.
        path: the file it was read from.
    """

    name: str
    seed: int
    models: dict[str, str]
    settings: dict[str, BaseModel]
    path: Path

    def to_yaml(self) -> str:
        """The recipe with every default written out; reads back as an equal recipe."""
        head = {"name": self.name, "seed": self.seed, "models": self.models}
        return dump(head | {stage: settings.model_dump(mode="json") for stage, settings in self.settings.items()})


def load_recipe(path: Path, stages: Mapping[str, Stage], overrides: Sequence[str] = ()) -> Recipe:
    """Read and check a recipe.

    Args:
        path: the YAML file.
        stages: table of known stages, in running order.
        overrides: `dotted.key=value` from the command line, applied before the check; the value is read as YAML.

    Raises:
        PoiseError: everything that is wrong with the file and the overrides, one line for each problem.
    """
    head, settings = read_sections(path, Head, {name: stage.settings for name, stage in stages.items()}, overrides)
    return Recipe(head.name, head.seed, head.models.model_dump(), settings, path)


def read_sections(
    path: Path, top: type[M], sections: Mapping[str, type[BaseModel]], overrides: Sequence[str] = ()
) -> tuple[M, dict[str, BaseModel]]:
    """Read and check a file with a head and sections: a recipe, or another file that is written like one.

    Args:
        top: model of the keys that are no section.
        sections: section -> its model, in the order of the result.

    Raises:
        PoiseError: as `load_recipe`.
    """
    document = parse(read_text(path), str(path))
    if document.value is None:
        raise PoiseError("is empty", where=str(path), do="a recipe needs a name and at least one stage")
    if not isinstance(document.value, dict):
        kind = "a list" if isinstance(document.value, list) else "a single value"
        raise PoiseError(f"holds {kind} at its top level", where=str(path), do="write `name: ...` and stage sections")
    check = _Check(document)
    data = document.value
    for text in overrides:
        _override(data, text, check, sections)
    head = check.section(top, {key: data[key] for key in top.model_fields if key in data}, ())
    settings = {
        name: check.section(model, {} if data[name] is None else data[name], (name,))
        for name, model in sections.items()
        if name in data
    }
    for key in data:
        if key not in top.model_fields and key not in sections:
            check.add((str(key),), unknown_key(str(key), [*top.model_fields, *sections]))
    if not settings and not check.found:
        check.add((), f"names no stage; valid are {', '.join(sections)}")
    check.raise_if_any(str(path))
    assert head is not None  # a failed section has been reported above
    return head, {name: value for name, value in settings.items() if value is not None}


class _Check:
    """Collects the problems of one recipe, each with the line or the override it comes from."""

    def __init__(self, document: Document) -> None:
        self.found: list[tuple[int, str]] = []
        self._origin = {path: (line, f"line {line}") for path, line in document.lines.items()}
        for path, first, second in document.duplicates:
            self.found.append((second, f"line {second}: {'.'.join(path)}: key given twice, first in line {first}"))

    def override(self, path: KeyPath, text: str) -> None:
        """From now on `path` and all below it come from the command line."""
        self._origin = {key: origin for key, origin in self._origin.items() if key[: len(path)] != path}
        self._origin[path] = (1 << 30, f"--set {text}")

    def add(self, path: KeyPath, sentence: str) -> None:
        """Report `sentence` about the key at `path`."""
        known = [path[:length] for length in range(len(path), 0, -1) if path[:length] in self._origin]
        order, origin = self._origin[known[0]] if known else (0, "")
        self.found.append((order, ": ".join(part for part in (origin, ".".join(path), sentence) if part)))

    def section(self, model: type[M], data: Any, path: KeyPath) -> M | None:
        """Validate one section strictly (no text for numbers, no numbers for booleans), or report and return None."""
        odd = list(not_plain(data, path))
        for where, sentence in odd:
            self.add(where, sentence)
        if odd:
            return None
        try:
            # As JSON, because pydantic's strict mode takes lists for tuples and text for paths only there.
            return model.model_validate_json(json.dumps(data), strict=True)
        except ValidationError as error:
            for where, sentence in explain(error, model, data):
                self.add((*path, *where), sentence)
            return None

    def raise_if_any(self, where: str) -> None:
        """Raise one `PoiseError` with a line for each problem, in file order, overrides last."""
        lines = [text for _, text in sorted(self.found, key=lambda item: item[0])]
        if len(lines) == 1:
            raise PoiseError(lines[0], where=where)
        if lines:
            raise PoiseError("\n  ".join([f"{len(lines)} problems", *lines]), where=where)


def _override(data: dict[str, Any], text: str, check: _Check, stages: Mapping[str, object]) -> None:
    """Put one `dotted.key=value` into `data`; keys that do not exist are left to the validation."""
    dotted, equals, raw = text.partition("=")
    path = tuple(dotted.strip().split("."))
    if not equals or not all(path):
        check.found.append((1 << 30, f"--set {text}: write it as section.key=value"))
        return
    if path[0] in stages and path[0] not in data:
        check.found.append((1 << 30, f"--set {text}: stage {path[0]!r} is not in this recipe"))
        return
    value = parse(raw, f"--set {text}").value
    check.override(path, text)
    for key in path[:-1]:
        if data.get(key) is None:
            data[key] = {}
        data = data[key]
        if not isinstance(data, dict):
            check.add(path, f"{key!r} is not a section")
            return
    data[path[-1]] = value
