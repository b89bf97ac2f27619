"""What a stage is, and all that a stage function gets to see of the run around it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

from pydantic import BaseModel

from poise.errors import PoiseError
from poise.pipeline.files import TEMPORARY, json_text, sha256_json, write_atomic
from poise.pipeline.journal import Journal
from poise.pipeline.progress import Progress, progress

T = TypeVar("T")
PARTS = "parts"
MANIFEST = "manifest.json"
FINGERPRINT = "fingerprint.txt"
RESERVED = (PARTS, MANIFEST, FINGERPRINT)
"""Names in a stage's folder that belong to the runner."""


@dataclass(frozen=True)
class Stage:
    """One step of a run.

    Args:
        name: section of the recipe and end of the folder's name.
        settings: pydantic model, frozen, `extra="forbid"`, a default for every field.
        needs: earlier stages whose folders it reads, where the recipe has them.
        reads: files outside the run that it reads, by name; a change in them makes it run again.
        run: does the work in `context.dir` and returns the summary for the manifest (JSON values).
    """

    name: str
    settings: type[BaseModel]
    needs: tuple[str, ...]
    run: Callable[[StageContext, Any], dict[str, Any]]
    reads: Callable[[Any, Path], Mapping[str, Path]] = lambda settings, recipe_dir: {}


@dataclass(frozen=True)
class StageContext:
    """A stage's view of its run.

    Args:
        stage: its name.
        dir: the working folder; every file in it but `parts/` becomes an output. After an interruption it still
            holds what the earlier attempt wrote, so outputs are written under fixed names.
        seed: the recipe's seed.
        models: role -> model name or path, from the recipe.
        recipe_name: the recipe's name.
        recipe_dir: folder of the recipe file; relative paths in settings start there.
        needs: the stages it may read.
        inputs: finished folder of each needed stage that the recipe has.
        journal: where `log` and `event` go.
    """

    stage: str
    dir: Path
    seed: int
    models: Mapping[str, str]
    recipe_name: str
    recipe_dir: Path
    needs: tuple[str, ...]
    inputs: Mapping[str, Path]
    journal: Journal

    def input(self, stage: str) -> Path:
        """Folder of an earlier stage.

        Raises:
            PoiseError: that stage is not in the recipe.
            ValueError: this stage does not declare that it reads it (its fingerprint would miss a change).
        """
        if not self.has_input(stage):
            raise PoiseError(
                f"needs stage {stage!r}, which is not in the recipe",
                where=f"stage {self.stage}",
                do=f"add a section `{stage}: {{}}` to the recipe",
            )
        return self.inputs[stage]

    def has_input(self, stage: str) -> bool:
        """Whether the recipe has that earlier stage.

        Raises:
            ValueError: this stage does not declare that it reads it.
        """
        if stage not in self.needs:
            raise ValueError(f"stage {self.stage} reads {stage} but does not name it in its needs {self.needs}")
        return stage in self.inputs

    def log(self, text: str) -> None:
        """One line for people: shown, and kept in `log.txt`."""
        self.journal.log(f"      {self.stage}: {text}")

    def event(self, name: str, **fields: Any) -> None:
        """One line for programs in `events.jsonl`."""
        self.journal.event(self.stage, name, **fields)

    @overload
    def progress(self, items_or_total: int, *, unit: str, what: str) -> Progress[int]: ...
    @overload
    def progress(self, items_or_total: Iterable[T], *, unit: str, what: str) -> Progress[T]: ...
    def progress(self, items_or_total: int | Iterable[Any], *, unit: str, what: str) -> Progress[Any]:
        """See `poise.pipeline.progress.progress`."""
        return progress(items_or_total, unit=unit, what=what)

    def path(self, name: str) -> Path:
        """Where to write the output `name` (a relative path; its folder is made).

        Raises:
            ValueError: the name leaves the stage's folder or belongs to the runner.
        """
        relative = Path(name)
        if relative.is_absolute() or ".." in relative.parts or not relative.parts or relative.parts[0] in RESERVED:
            raise ValueError(f"stage {self.stage} cannot write an output called {name!r}")
        (self.dir / relative).parent.mkdir(parents=True, exist_ok=True)
        return self.dir / relative

    def scratch(self, name: str) -> Path:
        """A file or folder that survives an interruption and is deleted when the stage is finished (a checkpoint)."""
        (self.dir / PARTS).mkdir(parents=True, exist_ok=True)
        return self.dir / PARTS / f"_{_safe(name)}"

    def write_json(self, name: str, value: Any) -> Path:
        """Write an output as JSON; NaN and infinities become null."""
        return self.write_text(name, json_text(value))

    def write_text(self, name: str, text: str) -> Path:
        """Write an output as UTF-8 text, line ends as given."""
        path = self.path(name)
        write_atomic(path, text.encode("utf-8"))
        return path

    def part(self, name: str, compute: Callable[[], T]) -> T:
        """The value of `compute`, kept on disk until the stage is finished, so that no part is done twice.

        What comes back has always been through JSON (tuples are lists, keys are text), so a first run and a
        continued run see equal values. A damaged part is computed again.

        Args:
            name: unique within the stage; letters, digits, `.`, `_`, `-`.
            compute: returns JSON values. Files that it writes stay in the folder as well.
        """
        path = self.dir / PARTS / f"{_safe(name)}.json"
        stored = _read_part(path)
        if stored is None:
            text = json.dumps(compute())
            stored = {"value": json.loads(text), "sha256": sha256_json(text)}
            write_atomic(path, json.dumps(stored).encode("ascii"))
        value: T = stored["value"]
        return value


def _read_part(path: Path) -> dict[str, Any] | None:
    """The stored part, or None when it is absent or damaged."""
    try:
        stored = json.loads(path.read_bytes())
        intact = stored["sha256"] == sha256_json(json.dumps(stored["value"]))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):  # a torn or altered file: it is simply made again
        return None
    return stored if intact else None


def _safe(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,180}", name) or name.endswith(TEMPORARY):
        raise ValueError(f"{name!r} cannot name a part: use letters, digits, '.', '_' and '-'")
    return name
