"""The joint report as one picture: accuracy of each source of labels, and what suggestions do, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poise.data.figures import INK, MUTED, STYLE
from poise.data.folders import disk_error, partial_folder
from poise.errors import PoiseError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PEOPLE, _MODEL, _JOINT = "#1f5f8b", "#9a5b13", "#3f7d3a"
_STYLE = STYLE | {"axes.titlesize": 10}
_EFFECTS = {
    "automation_bias": "automation bias",
    "planted_reliance": "reliance on planted ones",
    "shift": "shift towards suggestions",
    "gain": "accuracy: joint - alone",
}
Line = tuple[str, Mapping[str, Any] | None, str]
"""Name, estimate and colour; a heading has no estimate."""


def check_target(path: Path | None, suffixes: Sequence[str], *, replace: bool) -> None:
    """Refuse a file before the work begins; None is no file.

    Raises:
        PoiseError: another suffix, a folder, or a file that is there without `replace`.
    """
    if path is None:
        return
    if path.suffix not in suffixes:
        raise PoiseError(f"no {' or '.join(suffixes)} file", where=str(path), do=f"end its name in {suffixes[0]}")
    if path.is_dir() or (path.exists() and not replace):
        raise PoiseError("is there already", where=str(path), do="choose another file or --force")


@contextmanager
def written(path: Path) -> Iterator[Path]:
    """Where to write what becomes `path` when it is complete.

    Raises:
        PoiseError: it cannot be written (exit code 3).
    """
    part = partial_folder(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(path)
    except OSError as error:
        raise disk_error(error, path) from error
    finally:
        part.unlink(missing_ok=True)


def draw(report: Mapping[str, Any], path: Path, kind: str = "png") -> None:
    """Left the accuracy of every source, right the effects of suggestions, variable by variable.

    Args:
        kind: "png" or "svg". What rests on no answer is left out.
    """
    import matplotlib
    from matplotlib.figure import Figure

    accuracy = _lines(report, lambda variable: [(n, v, _colour(n)) for n, v in variable["accuracy"].items()])
    effects = _lines(report, lambda variable: [(told, variable[n], _JOINT) for n, told in _EFFECTS.items()])
    rows = max(len(accuracy), len(effects), 4)
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(10, 1.1 + 0.25 * rows), layout="constrained", dpi=150)
        left, right = figure.subplots(1, 2)
        figure.suptitle(f"{report['joint']['mode']}, truth: {report['reference']} items", fontsize=10, color=MUTED)
        left.set_title("accuracy", loc="left")
        right.set_title("what suggestions do (0: nothing)", loc="left")
        _panel(left, accuracy, rows)
        _panel(right, effects, rows)
        low = min([found["low"] for _, found, _ in accuracy if found and found["low"] is not None] or [0.0])
        left.set_xlim(max(low - 0.03, 0.0), 1.01)
        right.axvline(0, color=INK, linewidth=0.8)
        metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
        figure.savefig(path, format=kind, metadata=metadata)


def _lines(report: Mapping[str, Any], of: Any) -> list[Line]:
    """A heading for each variable, then its estimates."""
    lines: list[Line] = []
    for question in report["questions"]:
        for variable in question["variables"]:
            found = [line for line in of(variable) if line[1]["value"] is not None]
            if found:
                own = variable["name"] == question["question"]
                name = variable["name"] if own else f"{question['question']}: {variable['name']}"
                lines += [(name, None, INK), *found]
    return lines


def _colour(name: str) -> str:
    return _MODEL if name.startswith("model ") else {"person alone": _PEOPLE, "joint": _JOINT}.get(name, MUTED)


def _panel(axes: Axes, lines: Sequence[Line], rows: int) -> None:
    for row, (_, found, colour) in enumerate(lines):
        if found is None:
            continue
        if found["low"] is not None and found["high"] is not None:
            axes.plot([found["low"], found["high"]], [row, row], color=colour, linewidth=1.8)
        axes.plot(found["value"], row, "o", color=colour, markersize=5)
    axes.set_yticks(range(len(lines)), [name for name, *_ in lines])
    for label, (_, found, _) in zip(axes.get_yticklabels(), lines, strict=True):
        if found is None:
            label.set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(rows - 0.5, -0.6)
    axes.grid(axis="x")
