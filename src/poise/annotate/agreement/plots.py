"""The report as files: `agreement.json`, and `agreement.svg` with alpha and its interval for every variable."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from poise.data.figures import MUTED, STYLE
from poise.data.folders import disk_error, partial_folder, write_json
from poise.errors import PoiseError

_ALPHA, _AC = "#1f5f8b", "#d9822b"


def write_report(report: Mapping[str, Any], out: Path, *, replace: bool = False) -> None:
    """Write the folder, which appears when it is complete.

    Raises:
        PoiseError: the folder is in use, or cannot be written (exit code 3).
    """
    if out.exists() and not replace and (not out.is_dir() or any(out.iterdir())):
        raise PoiseError("already exists and is not empty", where=str(out), do="choose another folder or --force")
    if replace and out.exists() and not (out / "agreement.json").is_file() and any(out.iterdir()):
        raise PoiseError("holds no earlier report", where=str(out), do="choose another folder")
    parts = partial_folder(out)
    try:
        shutil.rmtree(parts, ignore_errors=True)
        parts.mkdir(parents=True)
        write_json(parts / "agreement.json", report)
        draw(report, parts / "agreement.svg")
        if out.exists():
            shutil.rmtree(out)
        parts.rename(out)
    except OSError as error:
        raise disk_error(error, out) from error
    finally:
        shutil.rmtree(parts, ignore_errors=True)


def draw(report: Mapping[str, Any], path: Path) -> None:
    """One line a variable: alpha with its interval, and AC1 or AC2; what is undefined is named and has no mark."""
    import matplotlib
    from matplotlib.figure import Figure

    lines = [
        (variable["name"] if variable["name"] == q["question"] else f"{q['question']}: {variable['name']}", variable)
        for q in report["questions"]
        for variable in q["variables"]
    ]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7.6, 1.3 + 0.24 * len(lines)), layout="constrained")
        axes = figure.subplots()
        for row, (_, variable) in enumerate(lines):
            found, other = variable["alpha"], variable.get("gwet", {"value": None})
            if found["low"] is not None:
                axes.plot([found["low"], found["high"]], [row, row], color=_ALPHA, linewidth=1.6)
            if found["value"] is None:
                axes.text(0.01, row, found["reason"], va="center", fontsize=8, color=MUTED)
            else:
                axes.plot(found["value"], row, "o", color=_ALPHA, markersize=5, label="alpha, 95 % interval")
            if other["value"] is not None:
                axes.plot(other["value"], row, "|", color=_AC, markersize=9, markeredgewidth=2, label="AC1, AC2")
        axes.set_yticks(range(len(lines)), [name for name, _ in lines])
        axes.set_ylim(len(lines) - 0.4, -0.6)
        lows = [v["alpha"]["low"] for _, v in lines if v["alpha"]["low"] is not None]
        axes.set_xlim(min(0.0, *lows) - 0.02 if lows else 0.0, 1.02)
        axes.grid(axis="x")
        axes.set_xlabel("agreement: 0 as by chance, 1 perfect")
        handles, labels = axes.get_legend_handles_labels()
        unique = dict(zip(labels, handles, strict=True))
        if unique:
            figure.legend(list(unique.values()), list(unique), loc="outside upper right", ncols=2)
        figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
