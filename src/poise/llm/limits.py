"""How fast a lane may go: concurrency that adapts, a rate that is known or learnt, pauses, a circuit breaker.

* Concurrency shrinks to 3/4 when a burst is refused. Where it holds requests back it grows: by one for each full round
  of successes (AIMD), or doubling while nothing was refused yet or a known rate holds them back as well.
* The rate is what the user states (requests and tokens a minute), or what the first refusal tells: n requests went
  through in t seconds and the server asks to wait r more, so its limit is n in t + r. From then on requests are spaced
  evenly at 97 % of that, so that no window of the server holds more than it allows. Without a Retry-After the window is
  found by asking: one probe after a second, the next ones each 15 % later, until one is let in. If that is T seconds
  after the first request, the limit is n in T; probing makes T up to 15 % too long, so the rate creeps up by that, and
  beyond it the faster the longer nothing is refused.
* Where refusals go on although a learnt rate is kept (others use the same key, or the server refuses at random) no rate
  is learnt any more; pauses and concurrency remain.
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
PROBE_S, PROBE_GROWTH = 1.0, 0.15
"""Without a Retry-After: wait before the first probe, and share of the time so far to wait before each further one."""
CREEP = 0.05
FEW, SOON_S = 20, 5.0
"""A refusal after fewer requests than this says nothing of a rate, unless the server is closed for longer than that."""
HINT_QUIET_S = 300.0
"""A rate that the server told is raised only when nothing was refused for so long."""
DOUBTS, DOUBT_S = 3, 15.0
"""So many refusals within so many seconds, while a learnt rate is kept, show that it is not the rate."""
QUIET_CREEP = 2e-4
"""Growth of a learnt rate a second: up to what it may be when the probe came late, and beyond, times the seconds since
the last refusal."""
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


@dataclass
class _Burst:
    """What went through before a refusal that said nothing of when to come back; `paced` if it had kept to a rate."""

    start: float
    sent: int
    refused_at: float
    paced: bool
    probes: int = 0


class Lane:
    """One client with its limits. All times are seconds of one monotonic clock."""

    def __init__(self, client: ChatClient, limits: Limits = Limits()) -> None:
        self.client, self.limits = client, limits
        self.concurrency = float(min(8, limits.max_concurrency))
        self.in_flight = 0
        self.stopped: EndpointError | None = None
        """The fault that every further request would meet too."""
        self.last_fault: EndpointError | None = None
        """The last one that was no rate limit."""
        self.last_success: float | None = None
        self._interval = 60 / (limits.requests_per_minute * SAFETY) if limits.requests_per_minute else 0.0
        self._least_interval = 0.0
        self._doubts: list[float] = []
        self._next_start = self._paused_until = self._refused_at = -math.inf
        self._tokens = limits.tokens_per_minute or math.inf
        self._tokens_at = 0.0
        self._window_start: float | None = None
        self._window_sent = 0
        self._burst: _Burst | None = None
        self._probe_out = False
        self._faults_in_a_row = 0
        self._open_for = 0.0
        self._probing = False

    @property
    def broken(self) -> bool:
        """The breaker is open: nothing but faults lately."""
        return self._probing

    def ready_at(self, tokens: int, now: float) -> float:
        """When the next request of so many tokens may start: `now` or earlier means at once, inf means after a reply.

        Args:
            tokens: prompt tokens and the most that may come back.
        """
        if self.stopped or self.in_flight >= int(self.concurrency) or (self._probing and self.in_flight):
            return math.inf
        if self._burst is not None and self._probe_out:
            return math.inf
        at = max(self._next_start, self._paused_until)
        if self.limits.tokens_per_minute is not None:
            missing = min(tokens, self.limits.tokens_per_minute) - self._refill(now)
            at = max(at, now + missing * 60 / self.limits.tokens_per_minute)
        return at

    def start(self, tokens: int, now: float) -> None:
        """A request is being sent."""
        self.in_flight += 1
        self._probe_out |= self._burst is not None
        if self._window_start is None:
            self._window_start = now
        if self.limits.tokens_per_minute is not None:
            self._tokens = self._refill(now) - min(tokens, self.limits.tokens_per_minute)
        if self._interval:  # a start that came late may be made up for by one interval, not by more
            self._next_start = max(self._next_start, now - self._interval) + self._interval

    def withdraw(self, started: float) -> None:
        """A request that was to be sent at `started` is not sent after all."""
        self.in_flight -= 1
        if self._burst is not None and started >= self._burst.refused_at:
            self._probe_out = False

    def succeed(self, now: float, started: float | None = None) -> None:
        """A reply came to a request that was sent at `started`."""
        self.in_flight -= 1
        self.last_success = now
        self._window_sent += 1
        if self._burst is not None:
            self._settle(self._burst, now if started is None else started)
        self._faults_in_a_row, self._probing, self._open_for = 0, False, 0.0
        if 2 * (self.in_flight + 1) >= self.concurrency:  # it is being used
            free = self._refused_at == -math.inf or self._interval > 0
            step = 1.0 if free else 1 / self.concurrency
            self.concurrency = min(self.limits.max_concurrency, self.concurrency + step)
        if self._interval and self.limits.requests_per_minute is None:
            quiet = now - self._refused_at - (0.0 if self._least_interval else HINT_QUIET_S)
            creep = CREEP if self._interval > self._least_interval > 0 else min(CREEP, QUIET_CREEP * max(0.0, quiet))
            self._interval /= 1 + creep * self._interval  # spread over the requests of a second

    def fail(self, error: EndpointError, now: float, started: float | None = None) -> None:
        """A fault came in place of a reply to a request that was sent at `started`."""
        started = now if started is None else started
        self.withdraw(started)
        if error.kind in ("rate-limited", "overloaded"):
            if started >= self._refused_at:  # of several refusals of one burst the first one teaches
                if self._burst is None:
                    self.concurrency = max(1.0, self.concurrency * SHRINK)
                self._refused_at = now
                self._pause(error, now)
            return
        self._faults_in_a_row += 1
        self.last_fault = error
        if self._faults_in_a_row >= BREAK_AFTER or self._probing:
            self._open_for = min(60.0, max(1.0, 2 * self._open_for))
            self._paused_until = max(self._paused_until, now + self._open_for)
            self._probing = True

    def _pause(self, error: EndpointError, now: float) -> None:
        """Wait as the server asks or as probing needs, and learn what the refusal tells of its limit."""
        elapsed = now - (self._window_start if self._window_start is not None else now)
        retry_after_s, sent = error.retry_after_s, self._window_sent
        learns = error.kind == "rate-limited" and self.limits.requests_per_minute is None and self._believes(now)
        if learns and retry_after_s is not None and sent and (sent >= FEW or retry_after_s >= SOON_S):
            self._interval = max(self._interval, (elapsed + retry_after_s) / (sent * SAFETY))
        elif learns and retry_after_s is None and self._burst is None:
            self._burst = _Burst(now - elapsed, sent, now, self._interval > 0)
        elif self._burst is not None:
            self._burst.probes += 1
        waited = now - self._burst.start if self._burst is not None else 0.0
        pause = retry_after_s if retry_after_s is not None else max(PROBE_S, PROBE_GROWTH * waited, self._interval)
        self._paused_until = now + pause
        self._next_start = max(self._next_start, self._paused_until)
        self._window_start, self._window_sent = None, 0

    def _believes(self, now: float) -> bool:
        """Whether a rate explains the refusals; if they go on in spite of one, it is forgotten for good."""
        if self._interval and self._burst is None:
            self._doubts = [at for at in self._doubts if at > now - DOUBT_S] + [now]
        if len(self._doubts) >= DOUBTS:
            self._interval = self._least_interval = 0.0
            self._burst, self._probe_out = None, False
        return len(self._doubts) < DOUBTS

    def _settle(self, burst: _Burst, started: float) -> None:
        """A reply while nothing was known of the window: one more of the burst, or the probe that was let in."""
        if started < burst.refused_at:
            burst.sent += 1
            return
        if burst.probes or burst.sent >= FEW:
            learnt = (started - burst.start) / (max(burst.sent, 1) * SAFETY)
            # paced and refused after many: a little too fast; after few: the limit has changed
            self._interval = learnt if not burst.paced or burst.sent < FEW else self._interval * 1.05
            self._least_interval = self._interval if burst.paced else self._interval / (1 + PROBE_GROWTH)
        self._burst, self._probe_out = None, False
        self._window_start, self._window_sent, self._next_start = started, 1, started + self._interval

    def _refill(self, now: float) -> float:
        """Tokens that may be spent now."""
        most = self.limits.tokens_per_minute or math.inf
        if most < math.inf:
            self._tokens = min(most, self._tokens + (now - self._tokens_at) * most / 60)
            self._tokens_at = now
        return self._tokens
