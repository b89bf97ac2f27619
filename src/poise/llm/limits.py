"""How fast a lane may go: concurrency that adapts, a rate that is known or learnt, pauses, a circuit breaker.

* Concurrency grows by one for each full round of successes and shrinks to 3/4 on "rate-limited" or "overloaded" (AIMD).
* The rate is what the user states (requests and tokens a minute), or what the first refusal tells: n requests went
  through in t seconds and the server asks to wait r more, so its limit is n in t + r. From then on requests are spaced
  evenly at 97 % of that, so that no window of the server holds more than it allows. Without a Retry-After nothing is
  known of the window; the rate is then 3/4 of what went through lately, and grows by 5 % a second.
* A breaker opens after five faults in a row that are no rate limit; after a pause one request probes the server.

Time is handed in (`now`, seconds, monotonic), so all of it can be tested without waiting.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from poise.llm.exchange import ChatClient, EndpointError

SAFETY = 0.97
"""Share of a limit that is used."""
SHRINK = 0.75
BREAK_AFTER = 5
"""Faults in a row that open the breaker."""


@dataclass(frozen=True)
class Limits:
    """What the user knows of a server.

    Args:
        max_concurrency: requests in flight at most.
        requests_per_minute, tokens_per_minute: None where not known.
    """

    max_concurrency: int = 64
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None


class Lane:
    """One client with its limits. All times are seconds of one monotonic clock."""

    def __init__(self, client: ChatClient, limits: Limits = Limits()) -> None:
        self.client, self.limits = client, limits
        self.concurrency = float(min(8, limits.max_concurrency))
        self.in_flight = 0
        self.stopped: EndpointError | None = None
        """The fault that every further request would meet too."""
        self.last_success: float | None = None
        self._interval = 60 / (limits.requests_per_minute * SAFETY) if limits.requests_per_minute else 0.0
        self._grows = False
        self._next_start = self._paused_until = -math.inf
        self._tokens = limits.tokens_per_minute or math.inf
        self._tokens_at = 0.0
        self._window_start: float | None = None
        self._window_sent = 0
        self._recent: list[float] = []
        self._faults_in_a_row = 0
        self._open_for = 0.0
        self._probing = False

    def ready_at(self, tokens: int, now: float) -> float:
        """When the next request of so many tokens may start: `now` or earlier means at once, inf means after a reply.

        Args:
            tokens: prompt tokens and the most that may come back.
        """
        if self.stopped or self.in_flight >= int(self.concurrency) or (self._probing and self.in_flight):
            return math.inf
        at = max(self._next_start, self._paused_until)
        if self.limits.tokens_per_minute is not None:
            missing = min(tokens, self.limits.tokens_per_minute) - self._refill(now)
            at = max(at, now + missing * 60 / self.limits.tokens_per_minute)
        return at

    def start(self, tokens: int, now: float) -> None:
        """A request is being sent."""
        self.in_flight += 1
        if self._window_start is None:
            self._window_start = now
        if self.limits.tokens_per_minute is not None:
            self._tokens = self._refill(now) - min(tokens, self.limits.tokens_per_minute)
        if self._interval:  # a start that came late may be made up for by one interval, not by more
            self._next_start = max(self._next_start, now - self._interval) + self._interval

    def succeed(self, now: float) -> None:
        """A reply came."""
        self.in_flight -= 1
        self.last_success = now
        self._window_sent += 1
        self._faults_in_a_row, self._probing, self._open_for = 0, False, 0.0
        self.concurrency = min(self.limits.max_concurrency, self.concurrency + 1 / self.concurrency)
        self._recent.append(now)
        if len(self._recent) > 1000:
            del self._recent[:500]
        if self._grows:
            self._interval /= 1 + 0.05 * self._interval  # 5 % a second, spread over the requests of that second

    def fail(self, error: EndpointError, now: float) -> None:
        """A fault came in place of a reply."""
        self.in_flight -= 1
        if error.kind in ("rate-limited", "overloaded"):
            self.concurrency = max(1.0, self.concurrency * SHRINK)
            if now >= self._paused_until:  # of several refusals of one burst the first one teaches
                self._learn(error.retry_after_s, now)
            return
        self._faults_in_a_row += 1
        if self._faults_in_a_row >= BREAK_AFTER or self._probing:
            self._open_for = min(60.0, max(1.0, 2 * self._open_for))
            self._paused_until = max(self._paused_until, now + self._open_for)
            self._probing = True

    def _learn(self, retry_after_s: float | None, now: float) -> None:
        elapsed = now - (self._window_start if self._window_start is not None else now)
        stated = self.limits.requests_per_minute is not None
        if retry_after_s is not None and self._window_sent and not stated:
            self._slow_to((elapsed + retry_after_s) / (self._window_sent * SAFETY))
        elif retry_after_s is None and not stated:
            lately = [t for t in self._recent if t > now - 5]
            rate = len(lately) / max(min(elapsed, 5.0), 0.1)
            self._slow_to(1 / max(rate * SHRINK, 0.2))
            self._grows = True
        pause = retry_after_s if retry_after_s is not None else max(1.0, self._interval)
        self._paused_until = now + pause
        self._next_start = max(self._next_start, self._paused_until)
        self._window_start, self._window_sent = None, 0

    def _slow_to(self, interval: float) -> None:
        self._interval = max(self._interval, interval)

    def _refill(self, now: float) -> float:
        """Tokens that may be spent now."""
        most = self.limits.tokens_per_minute or math.inf
        if most < math.inf:
            self._tokens = min(most, self._tokens + (now - self._tokens_at) * most / 60)
            self._tokens_at = now
        return self._tokens
