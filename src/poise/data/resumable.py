"""Runs that go on after a stop: where one keeps its state, and whether what is there is of the same run.

While a run makes the folder `<name>`, `.<name>.training` beside it holds `settings.json` (what the run is) and its
checkpoints. What a run is, its identity, is JSON-able: everything that decides the result, so settings, and digests of
data and weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from poise.data.folders import write_json
from poise.errors import PoiseError

SETTINGS = "settings.json"
Identity = dict[str, Any]


def work_folder(out: Path) -> Path:
    """Where a run that will make `out` keeps its state."""
    return out.with_name(f".{out.name}.training")


def refuse_foreign(out: Path, report: str, what: str) -> None:
    """Make sure that `out` is free, or what a run of this kind made.

    Args:
        report: name of the file that such a folder has.
        what: "is no ..." or "holds no ...", of such a folder.

    Raises:
        PoiseError: it is something else.
    """
    if out.exists() and not (out / report).is_file():
        raise PoiseError(f"exists and {what}", where=str(out), do="give another --out")


def finished(out: Path, report: str, identity: Identity, note: Callable[[str], object]) -> dict[str, Any] | None:
    """The report of the complete run in `out`; None where there is no such folder.

    Raises:
        PoiseError: it is of another run.
    """
    if not out.exists():
        return None
    found: dict[str, Any] = json.loads((out / report).read_text(encoding="utf-8"))
    refuse_other(identity, found["identity"], out, "give another --out")
    note(f"{out} is complete; nothing to do")
    return found


def refuse_other_work(work: Path, identity: Identity) -> bool:
    """Whether a run was stopped in `work`.

    Raises:
        PoiseError: it was another one.
    """
    if not (work / SETTINGS).is_file():
        return False
    there = json.loads((work / SETTINGS).read_text(encoding="utf-8"))
    refuse_other(identity, there, work, "give the same, or another --out, or delete this folder")
    return True


def open_work(work: Path, identity: Identity) -> None:
    """Note what the run is, or make sure that the one that was stopped here is the same."""
    work.mkdir(parents=True, exist_ok=True)
    if not refuse_other_work(work, identity):
        write_json(work / "settings.part", identity)
        (work / "settings.part").replace(work / SETTINGS)


def refuse_other(mine: Identity, there: Identity, where: Path, do: str) -> None:
    """Make sure that two runs are the same.

    Raises:
        PoiseError: they differ; names each setting, by its dotted key, with both values.
    """
    mine, there = _flat(json.loads(json.dumps(mine))), _flat(there)
    names = [name for name in sorted(mine.keys() | there.keys()) if mine.get(name) != there.get(name)]
    if names:
        differences = ", ".join(f"{name} {there.get(name)!r} there, {mine.get(name)!r} now" for name in names)
        raise PoiseError(f"another run made it: {differences}", where=str(where), do=do)


def _flat(tree: Identity, above: str = "") -> Identity:
    """Nested keys joined by dots."""
    out: Identity = {}
    for key, value in tree.items():
        out |= _flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value}
    return out
