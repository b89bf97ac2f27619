"""Where the measurements of a run are shown while it goes on: a file of lines, TensorBoard, Weights & Biases.

    with sinks(["jsonl", "tensorboard"], folder, name="ppo-1", settings=recipe) as on_step: train(..., on_step=on_step)

A sink is written to and never read from: nothing of a run depends on one. A run that continues from a checkpoint sends
its steps again; the lines after the checkpoint are replaced, so that each step stands there once.

What a sink is told: the rows of measurements, and the settings that its caller gives, nothing of the machine or its
environment variables. W&B runs offline: it writes into the folder and needs no key; `wandb sync FOLDER/wandb/...` sends
it, when somebody decides so. Sample texts are not sent to any of them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol

from poise.align.engine.processes import is_first
from poise.errors import PoiseError

LINES = "steps.jsonl"


class Sink(Protocol):
    """Takes rows of measurements; each has a "step"."""

    def write(self, row: Mapping[str, float]) -> None:
        """Show one row."""
        ...

    def close(self) -> None:
        """Write out what is held back."""
        ...


class JSONLines:
    """A line of JSON for each step in `steps.jsonl`; a number that is none is null. Args: folder of the run."""

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        self._path, self._begun = folder / LINES, False
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, row: Mapping[str, float]) -> None:
        """Append a line; the first one takes the place of what an earlier process wrote from this step on."""
        if not self._begun:
            self._forget(row["step"])
            self._begun = True
        line = json.dumps({name: value if math.isfinite(value) else None for name, value in row.items()})
        with self._path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(line + "\n")

    def _forget(self, step: float) -> None:
        kept = []
        for line in self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []:
            try:
                if json.loads(line)["step"] < step:
                    kept.append(line + "\n")
            except (ValueError, KeyError, TypeError):  # the last line of a process that was killed
                continue
        partial = self._path.with_name(f".{LINES}.{os.getpid()}.partial")
        partial.write_text("".join(kept), encoding="utf-8", newline="\n")
        partial.replace(self._path)

    def close(self) -> None:
        """Nothing is held back."""


class TensorBoard:
    """Event files in `tensorboard/` of the folder, one scalar for each measurement.

    Raises:
        PoiseError: the package is absent, or lacks one of its own.
    """

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise _absent("tensorboard", error) from error
        self._open: Callable[[int], Any] = lambda step: SummaryWriter(str(folder / "tensorboard"), purge_step=step)
        self._settings = json.dumps(dict(settings), indent=2, default=str)
        self._writer: Any = None

    def write(self, row: Mapping[str, float]) -> None:
        """Add the row's scalars; the first one tells TensorBoard to drop what was there from its step on."""
        step = int(row["step"])
        if self._writer is None:
            self._writer = self._open(step)
            self._writer.add_text("settings", f"```json\n{self._settings}\n```", step)
        for name, value in row.items():
            if name != "step":
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush."""
        if self._writer is not None:
            self._writer.close()


class WandB:
    """An offline run of Weights & Biases in `wandb/` of the folder.

    Its own collection of the machine's data, of requirements, code and console is switched off.

    Raises:
        PoiseError: the package is absent, or lacks one of its own.
    """

    def __init__(self, folder: Path, name: str, settings: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise _absent("wandb", error) from error
        quiet = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            save_code=False,
            silent=True,
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
            x_save_requirements=False,
        )
        folder.mkdir(parents=True, exist_ok=True)
        self._run = wandb.init(
            project="poise", name=name, dir=str(folder), config=dict(settings), mode="offline", settings=quiet
        )

    def write(self, row: Mapping[str, float]) -> None:
        """Log the row at its step."""
        self._run.log({name: value for name, value in row.items() if name != "step"}, step=int(row["step"]))

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


SINKS: Mapping[str, Callable[[Path, str, Mapping[str, Any]], Sink]] = {
    "jsonl": JSONLines,
    "tensorboard": TensorBoard,
    "wandb": WandB,
}
"""By the name that a recipe's `sinks` gives."""


@contextmanager
def sinks(
    names: Sequence[str], folder: Path, *, name: str = "run", settings: Mapping[str, Any] | None = None
) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """What takes each row of measurements, and shows it in all the places named; closed at the end, also after a fault.

    In several processes only the first one shows anything.

    Args:
        names: of `SINKS`; none is allowed.
        folder: of the run.
        name: how the run is called there.
        settings: of the run, JSON-able; give no secrets.

    Raises:
        PoiseError: an unknown name, or a package that is absent; before anything is trained.
    """
    for each in names:
        if each not in SINKS:
            raise PoiseError(f"there is no sink {each!r}", where="sinks", do=f"choose among {', '.join(SINKS)}")
    with ExitStack() as stack:
        opened: list[Sink] = []
        for each in dict.fromkeys(names if is_first() else ()):
            opened.append(SINKS[each](folder, name, settings or {}))
            stack.callback(opened[-1].close)

        def write(row: Mapping[str, float]) -> None:
            for sink in opened:
                sink.write(row)

        yield write


def _absent(package: str, error: ImportError) -> PoiseError:
    return PoiseError(
        f"the package {package} can't be imported ({error})",
        where="sinks",
        do=f"pip install -e '.[{package}]', or leave it out",
    )
