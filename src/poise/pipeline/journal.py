"""What happened in a run: `events.jsonl` for programs, `log.txt` for people. A sink; nothing reads from it."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from poise.pipeline.files import to_json

Console = Callable[[str], None]
"""Takes one line of text for the person at the terminal."""


def now() -> str:
    """The time as ISO 8601 in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Journal:
    """Appends to `<folder>/events.jsonl` and `<folder>/log.txt`, and shows log lines on the console."""

    def __init__(self, folder: Path, console: Console) -> None:
        self.log_path = folder / "log.txt"
        self._console = console
        _drop_torn_line(folder / "events.jsonl")
        self._events = (folder / "events.jsonl").open("a", encoding="ascii")
        self._log = self.log_path.open("a", encoding="utf-8", errors="backslashreplace")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._events.close()
        self._log.close()

    def event(self, stage: str | None, name: str, **fields: Any) -> None:
        """Append one JSON object: time, stage (null for the run itself), event, fields."""
        row = {"time": now(), "stage": stage, "event": name, "fields": to_json(fields)}
        self._events.write(json.dumps(row) + "\n")
        self._events.flush()

    def log(self, text: str) -> None:
        """Append one line to `log.txt` and show it."""
        self._log.write(f"{now()} {text}\n")
        self._log.flush()
        self._console(text)

    def traceback(self, error: BaseException) -> None:
        """Append the whole traceback to `log.txt`, without showing it."""
        self._log.write(f"{now()} {''.join(traceback.format_exception(error))}\n")
        self._log.flush()


def _drop_torn_line(path: Path) -> None:
    """Cut off what a killed process left of its last line, so that every line stays JSON."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        data = file.read()
        if not data.endswith(b"\n"):
            file.truncate(data.rfind(b"\n") + 1)
