"""What the server tells its operator: Prometheus metrics and one JSON line a request. Neither ever holds a text.

Labels are names from closed sets (API, status, verdict), so their number is bounded and nothing that a client sends
gets into them. The log line says who (key id), what (API, numbers), how it ended and how long it took.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, TextIO

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from poise.guard.verdict import Verdict
from poise.serve.views import worst

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters of one server; also the `Watch` of its queue."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        told: dict[str, Any] = {"registry": self.registry}
        self._requests = Counter("poise_requests", "Requests by API and status.", ["api", "status"], **told)
        self._seconds = Histogram("poise_request_seconds", "Time to answer.", ["api"], buckets=_SECONDS, **told)
        self._verdicts = Counter("poise_verdicts", "Verdicts by word.", ["api", "verdict"], **told)
        self._severities = Counter("poise_unsafe", "Unsafe verdicts by gravest severity.", ["severity"], **told)
        self._waiting = Gauge("poise_queue_items", "Texts that wait.", **told)
        self._batches = Histogram("poise_batch_items", "Texts of one call of the guard.", buckets=_SIZES, **told)
        self._guard = Histogram("poise_guard_seconds", "Time of one call of the guard.", buckets=_SECONDS, **told)
        self._failures = Counter("poise_guard_failures", "Calls in which the guard failed.", **told)
        self._gone = Counter("poise_hung_up", "Clients that went before their answer.", **told)

    def request(self, api: str, status: int, seconds: float) -> None:
        """One request has ended."""
        self._requests.labels(api, str(status)).inc()
        self._seconds.labels(api).observe(seconds)

    def verdicts(self, api: str, verdicts: Iterable[Verdict]) -> None:
        """Verdicts were given."""
        for verdict in verdicts:
            self._verdicts.labels(api, word_of(verdict)).inc()
            if verdict.unsafe:
                level = worst(verdict)
                self._severities.labels("unknown" if level is None else level.label).inc()

    def hung_up(self) -> None:
        """A client has gone."""
        self._gone.inc()

    def waiting(self, items: int) -> None:
        """Texts that wait now."""
        self._waiting.set(items)

    def batch(self, items: int, seconds: float) -> None:
        """One call of the guard."""
        self._batches.observe(items)
        self._guard.observe(seconds)

    def failure(self, error: str) -> None:
        """The guard failed; the log names the error."""
        self._failures.inc()
        log("guard failed", level="error", error=error)

    def page(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self.registry)


def word_of(verdict: Verdict) -> str:
    """unsafe, safe or unjudged."""
    return "unjudged" if verdict.unsafe is None else "unsafe" if verdict.unsafe else "safe"


_LOGGER = logging.getLogger("poise.serve")


def log(event: str, *, level: str = "info", **told: Any) -> None:
    """One line of JSON."""
    _LOGGER.log(logging.getLevelName(level.upper()), event, extra={"told": told})


class JsonLines(logging.Formatter):
    """A log record as one JSON line; of an exception its type and place alone, as its message may quote a text."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
        }
        line |= getattr(record, "told", {})
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            trace = record.exc_info[2]
            while trace is not None and trace.tb_next is not None:
                trace = trace.tb_next
            if trace is not None:
                line["at"] = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
        return json.dumps(line)


def start_logging(stream: TextIO | None = None, *, level: str = "info") -> None:
    """Send the server's and uvicorn's lines as JSON to `stream`, stderr by default."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("poise.serve", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers = [handler] if name != "uvicorn.error" else []
        logger.propagate = name == "uvicorn.error"
        logger.setLevel(level.upper())
    logging.getLogger("uvicorn.access").disabled = True  # its lines hold query strings, and so Perspective's keys
