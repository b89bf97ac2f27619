"""How far a loop has come: a tqdm bar on a terminal, one plain line every 15 seconds anywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import Any, Generic, Self, TypeVar, overload

from tqdm import tqdm

T = TypeVar("T")
PLAIN_EVERY_S = 15.0
_LINE = "{desc}: {n_fmt}/{total_fmt}{unit} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


class Meter:
    """Progress of work that says itself how far it is: a new bar when other work begins. Use it in `with`."""

    def __init__(self) -> None:
        self._bar: Progress[int] | None = None
        self._what = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def show(self, what: str, unit: str, done: int, total: int, **values: float | str) -> None:
        """`done` of `total` units of `what` are done; values stand after the rate."""
        if self._bar is None or (what, total) != (self._what, self._bar.total) or done < self._bar.n:
            self.__exit__(None, None, None)
            self._bar, self._what = Progress(range(total), total, unit, what), what
        self._bar.set(**values)
        self._bar.update(done - self._bar.n)


class Progress(Generic[T]):
    """Iterate over it, or call `update(n)` yourself; `set(loss=0.3)` shows values. Closes after iteration or `with`."""

    def __init__(self, items: Iterable[T], total: int | None, unit: str, what: str) -> None:
        self.n, self.total = 0, total
        self._items, self._unit, self._what, self._postfix = items, f" {unit}", what, ""
        self._started = self._printed = time.monotonic()
        self._bar: tqdm[Any] | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, unit=self._unit, desc=what, file=sys.stderr, dynamic_ncols=True, leave=False)

    def __iter__(self) -> Iterator[T]:
        with self:
            for item in self._items:
                yield item
                self.update(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def update(self, n: int = 1) -> None:
        """Count `n` more items as done."""
        self.n += n
        if self._bar is not None:
            self._bar.update(n)
        elif time.monotonic() - self._printed >= PLAIN_EVERY_S:
            self._print_line()

    def set(self, **postfix: float | str) -> None:
        """Values shown after the rate; floats with four digits."""
        shown = {key: f"{value:.4g}" if isinstance(value, float) else str(value) for key, value in postfix.items()}
        self._postfix = ", ".join(f"{key}={value}" for key, value in shown.items())
        if self._bar is not None:
            self._bar.set_postfix_str(self._postfix, refresh=False)

    def close(self) -> None:
        """Take the bar off the screen. May be called twice."""
        if self._bar is not None:
            self._bar.close()

    def _print_line(self) -> None:
        self._printed = time.monotonic()
        line = tqdm.format_meter(
            self.n,
            self.total,  # type: ignore[arg-type]  # None means unknown; the stub forgets it
            self._printed - self._started,
            prefix=self._what,
            unit=self._unit,
            postfix=self._postfix,
            bar_format=_LINE,
        )
        print(line, file=sys.stderr, flush=True)


@overload
def progress(items_or_total: int, *, unit: str, what: str) -> Progress[int]: ...
@overload
def progress(items_or_total: Iterable[T], *, unit: str, what: str) -> Progress[T]: ...
def progress(items_or_total: int | Iterable[Any], *, unit: str, what: str) -> Progress[Any]:
    """Progress over items, or over a total number of them (iterating a total yields 0..total-1).

    Args:
        items_or_total: anything iterable, or how many items there will be.
        unit: what one item is, in the plural ("prompts").
        what: the words before the numbers ("sampling").
    """
    if isinstance(items_or_total, int):
        return Progress(range(items_or_total), items_or_total, unit, what)
    total = len(items_or_total) if isinstance(items_or_total, Sized) else None
    return Progress(items_or_total, total, unit, what)
