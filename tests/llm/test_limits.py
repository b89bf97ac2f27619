"""Limits on a clock of our own: no waiting, exact times."""

from __future__ import annotations

import math
import random
from collections import deque

import pytest

from poise.llm.exchange import EndpointError, FaultKind
from poise.llm.limits import BREAK_AFTER, SAFETY, Lane, Limits


class Client:
    alias = "lane"

    async def send(self, request: object, shape: str = "text") -> object: ...
    async def close(self) -> None: ...


def lane(**limits: float) -> Lane:
    return Lane(Client(), Limits(**limits))  # type: ignore[arg-type]


def fault(kind: FaultKind, retry_after: float | None = None) -> EndpointError:
    return EndpointError(kind, "as tested", retry_after_s=retry_after)


def storm(
    lane: Lane,
    allowed: int,
    window: float,
    seconds: float,
    *,
    sliding: bool,
    retry_after: bool,
    latency: float = 0.02,
) -> tuple[list[float], int]:
    """A client that sends whenever the lane lets it, to a server that allows so many requests in a window.

    Refusals take 20 ms. Returns the times of refusals and the number of answers.
    """
    accepted: deque[float] = deque()
    pending: list[tuple[float, float, EndpointError | None]] = []
    refused: list[float] = []
    now, answered = 0.0, 0
    while now < seconds:
        for at, sent, error in [entry for entry in pending if entry[0] <= now]:
            pending.remove((at, sent, error))
            if error is None:
                lane.succeed(now, sent)
                answered += 1
            else:
                lane.fail(error, now, sent)
        while lane.ready_at(10, now) <= now:
            lane.start(10, now)
            start = now - window if sliding else math.floor(now / window) * window
            while accepted and (accepted[0] <= start if sliding else accepted[0] < start):
                accepted.popleft()
            if len(accepted) < allowed:
                accepted.append(now)
                pending.append((now + latency, now, None))
            else:
                refused.append(now)
                wait = accepted[0] - start if sliding else start + window - now
                pending.append((now + 0.02, now, fault("rate-limited", wait if retry_after else None)))
        now = round(now + 0.001, 6)
    return refused, answered


@pytest.mark.parametrize("sliding", [False, True])
@pytest.mark.parametrize(("allowed", "window"), [(50, 1.0), (300, 10.0)])
def test_after_the_first_refusal_none_is_over_the_limit(allowed: int, window: float, sliding: bool) -> None:
    """The burst that meets the limit teaches it; from then on nothing is refused and 90 % of it is used."""
    tested = lane(max_concurrency=64)
    refused, answered = storm(tested, allowed, window, 20 * window, sliding=sliding, retry_after=True)
    assert refused and max(refused) - min(refused) <= 0.03  # those in flight at the first refusal
    assert answered >= 0.9 * allowed * 20


@pytest.mark.parametrize("kind", ["rate-limited", "overloaded"])
@pytest.mark.parametrize("retry_after", [0.05, 1.0, None])
def test_refusals_at_random_do_not_slow_a_lane_down_for_ever(kind: FaultKind, retry_after: float | None) -> None:
    """About every hundredth of 20,000 requests is refused whatever the rate: the rate is not what it is about."""
    tested, now, answered, chance = lane(max_concurrency=64), 0.0, 0, random.Random(0)
    while answered < 20_000 and now < 3600:
        at = tested.ready_at(1, now)
        now = max(now, at)
        tested.start(1, now)
        started, now = now, now + 0.001
        if chance.random() < 0.01:
            tested.fail(fault(kind, retry_after), now, started)
        else:
            tested.succeed(now, started)
            answered += 1
    assert answered == 20_000 and now < 600


def test_a_stated_rate_is_never_exceeded() -> None:
    refused, answered = storm(lane(requests_per_minute=600), 600, 60.0, 120.0, sliding=True, retry_after=True)
    assert refused == [] and answered >= 0.9 * 1200


@pytest.mark.parametrize("latency", [0.02, 1.5])
@pytest.mark.parametrize("sliding", [False, True])
@pytest.mark.parametrize(("allowed", "window"), [(50, 1.0), (300, 10.0), (600, 60.0)])
def test_without_a_hint_the_window_is_found_by_probing(
    allowed: int, window: float, sliding: bool, latency: float
) -> None:
    """A few probes in the first window, then a refusal here and there, hardly fewer requests than are allowed.

    Slow replies cost more: the first burst is then spread over several windows, which makes the limit look lower.
    """
    seconds = 5 * max(window, 12.0)
    tested = lane(max_concurrency=256)
    refused, answered = storm(tested, allowed, window, seconds, sliding=sliding, retry_after=False, latency=latency)
    assert answered >= (0.85 if latency < 1 else 0.35) * allowed / window * seconds
    assert len([time for time in refused if time > refused[0] + latency]) <= 40


def test_concurrency_doubles_then_adds_one_a_round_and_shrinks_by_a_quarter() -> None:
    tested = lane(max_concurrency=64)
    assert tested.concurrency == 8
    for _ in range(7):
        tested.start(1, 0.0)
    for _ in range(8):
        tested.start(1, 0.0)
        tested.succeed(0.0)
    assert tested.concurrency == 16
    tested.start(1, 0.0)
    tested.fail(fault("overloaded"), 0.0)
    assert tested.concurrency == 12
    for _ in range(12):  # 12 + 1/12 + 1/12.08 + ... is nearly 13
        tested.start(1, 2.0)
        tested.succeed(2.0, 0.0)
    assert 12.9 < tested.concurrency < 13.0
    tested = lane()
    for second in range(3, 103):
        tested.start(1, float(second))
        tested.fail(fault("overloaded", 0.5), float(second))
    assert tested.concurrency == 1.0


def test_the_refusals_of_one_burst_count_once() -> None:
    """Eight requests are out when the server begins to refuse: one lesson, not eight."""
    tested = lane()
    for _ in range(8):
        tested.start(1, 0.0)
    for late in range(8):
        tested.fail(fault("rate-limited", 1.0), 0.5 + late / 100, 0.0)
    assert tested.concurrency == 6


def test_retry_after_pauses_the_whole_lane() -> None:
    tested = lane()
    tested.start(1, 0.0)
    tested.fail(fault("rate-limited", 7.0), 1.0)
    assert tested.ready_at(1, 1.0) == pytest.approx(8.0)


def test_the_breaker_opens_probes_and_closes() -> None:
    tested = lane()
    for _ in range(BREAK_AFTER):
        assert tested.ready_at(1, 0.0) <= 0.0
        tested.start(1, 0.0)
        tested.fail(fault("connection"), 0.0)
    assert tested.ready_at(1, 0.0) == 1.0  # open for a second
    tested.start(1, 1.0)
    assert tested.ready_at(1, 1.0) == math.inf  # one probe at a time
    tested.fail(fault("connection"), 1.0)
    assert tested.ready_at(1, 1.0) == 3.0  # twice as long
    tested.start(1, 3.0)
    tested.succeed(3.0)
    tested.start(1, 3.0)
    assert tested.ready_at(1, 3.0) <= 3.0  # closed


def test_tokens_a_minute() -> None:
    """600 a minute are 10 a second: after 600 tokens, 100 more are there in 10 seconds."""
    tested = lane(tokens_per_minute=600)
    tested.start(600, 100.0)
    assert tested.ready_at(100, 100.0) == pytest.approx(110.0)
    assert tested.ready_at(10**9, 100.0) == pytest.approx(160.0)  # more than a minute's worth waits for a full minute


def test_requests_a_minute_are_spaced() -> None:
    tested = lane(requests_per_minute=60)
    tested.start(1, 0.0)
    tested.start(1, 0.0)  # one that came late may be made up for
    assert tested.ready_at(1, 0.0) == pytest.approx(1 / SAFETY)


def test_a_full_lane_waits_for_a_reply() -> None:
    tested = lane(max_concurrency=2)
    tested.start(1, 0.0)
    tested.start(1, 0.0)
    assert tested.ready_at(1, 0.0) == math.inf
    tested.succeed(0.0)
    assert tested.ready_at(1, 0.0) <= 0.0
