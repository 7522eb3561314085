"""Properties of the pure parts: breaker, rates, retry budget, back-off."""

from __future__ import annotations

import asyncio
import random
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolorchestra.experts.breaker import Breaker, BreakerPolicy, Status
from toolorchestra.experts.classify import LONGEST_PAUSE_SECONDS, parse_retry_after
from toolorchestra.experts.endpoint import Endpoint, Limits
from toolorchestra.experts.errors import Reason
from toolorchestra.experts.lane import Lane, LaneClosed
from toolorchestra.experts.pacing import RateBucket, RetryBudget, backoff_seconds
from toolorchestra.experts.verdict import Failed
from toolorchestra.tools.view import Price

POLICY = BreakerPolicy(failures=3, open_seconds=4.0, max_open_seconds=16.0)

steps = st.lists(
    st.tuples(st.sampled_from(["ask", "ok", "fail", "abandon"]), st.floats(0, 10, allow_nan=False)), max_size=60
)


@given(steps)
def test_breaker_invariants(events: list[tuple[str, float]]) -> None:
    """At most one probe is out; nothing goes out while open; openings are bounded and always end."""
    breaker, now, out, probe_out = Breaker(policy=POLICY), 0.0, 0, False
    for event, passed in events:
        now += passed
        before = breaker
        if event == "ask":
            breaker, admitted = breaker.admit(now)
            if before.status is Status.HALF_OPEN:
                assert not admitted, "one probe at a time"
            if before.status is Status.OPEN:
                assert admitted == (now >= before.open_until)
            out += admitted
            probe_out = probe_out or (admitted and breaker.status is Status.HALF_OPEN)
        elif out:
            out -= 1
            if event == "ok":
                breaker = breaker.succeeded()
                assert breaker == Breaker(policy=POLICY)
                probe_out = False
            elif event == "fail":
                breaker = breaker.failed(now)
                probe_out = probe_out and breaker.status is Status.HALF_OPEN
            elif probe_out:
                breaker, probe_out = breaker.abandoned(), False
        assert 0 <= breaker.wait_seconds(now) <= POLICY.max_open_seconds
        assert (breaker.status is Status.CLOSED) == (breaker.open_for == 0)
        if breaker.status is Status.CLOSED:
            assert breaker.failures < POLICY.failures
    if not probe_out:
        assert breaker.admit(now + POLICY.max_open_seconds)[1], "never stuck"


def test_openings_double_up_to_the_bound() -> None:
    breaker, now, lengths = Breaker(policy=POLICY), 0.0, []
    for _ in range(POLICY.failures - 1):
        breaker = breaker.failed(now)
    assert breaker.status is Status.CLOSED
    for _ in range(5):
        breaker = breaker.failed(now)
        lengths.append(breaker.wait_seconds(now))
        now = breaker.open_until
        breaker, admitted = breaker.admit(now)
        assert admitted
    assert lengths == [4.0, 8.0, 16.0, 16.0, 16.0]


def test_late_failures_do_not_prolong_an_opening() -> None:
    breaker = Breaker(policy=BreakerPolicy(failures=1, open_seconds=4.0)).failed(0.0)
    assert breaker.failed(3.0) == breaker


@given(st.integers(1, 1200), st.lists(st.tuples(st.floats(0.1, 5000), st.floats(0, 5)), min_size=1, max_size=60))
def test_a_rate_holds_over_any_time(per_minute: int, asks: list[tuple[float, float]]) -> None:
    """Amounts admitted by time t never exceed rate·t plus one burst plus the largest request."""
    bucket, now, admitted, largest = RateBucket(per_minute=per_minute, now=0.0), 0.0, 0.0, 0.0
    for amount, passed in asks:
        now += passed
        wait = bucket.take(amount, now)
        assert wait >= 0
        if wait == 0:
            admitted, largest = admitted + amount, max(largest, amount)
        else:
            assert bucket.take(amount, now + wait + 1e-6) == 0, "the promised wait is enough"
            now += wait + 1e-6
            admitted, largest = admitted + amount, max(largest, amount)
        rate = per_minute / 60
        assert admitted <= rate * now + max(1.0, rate) + largest + 1e-6


def test_settling_gives_back_what_was_not_used() -> None:
    bucket = RateBucket(per_minute=60 * 100, now=0.0)
    assert bucket.take(100, 0.0) == 0
    bucket.settle(taken=100, used=40)
    assert bucket.take(60, 0.0) == 0
    assert bucket.take(1, 0.0) == pytest.approx(0.01)


@given(st.integers(0, 500))
def test_retries_are_a_share_of_requests(requests: int) -> None:
    budget = RetryBudget(ratio=0.2, reserve=10)
    retries = 0
    for _ in range(requests):
        budget.request()
        retries += budget.retry()
    assert retries <= requests * 0.2 + 10


@given(st.integers(1, 50), st.one_of(st.none(), st.floats(0, 100)), st.integers())
def test_backoff_bounds(attempt: int, retry_after: float | None, seed: int) -> None:
    wait = backoff_seconds(attempt=attempt, base=0.5, cap=20, retry_after=retry_after, rng=random.Random(seed))
    least = retry_after or 0.0
    assert least <= wait <= least + min(20, 0.5 * 2 ** (attempt - 1))


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("3", 3.0),
        ("0.5", 0.5),
        ("Sun, 22 Nov 2026 10:00:30 GMT", 30.0),
        ("Sun, 22 Nov 2026 09:00:00 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 -2359", LONGEST_PAUSE_SECONDS),
        ("Sat, 01 Jan 0001 00:00:00 +2359", 0.0),
        ("9" * 400, LONGEST_PAUSE_SECONDS),
        ("7200", LONGEST_PAUSE_SECONDS),
        ("soon", None),
        ("-3", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, seconds: float | None) -> None:
    assert parse_retry_after(header, now=datetime(2026, 11, 22, 10, tzinfo=UTC)) == seconds


@given(st.one_of(st.text(), st.from_regex(r"\w{3}, \d{1,3} \w{3} \d{1,9} \d\d:\d\d:\d\d [+-]?\d{1,5}", fullmatch=True)))
def test_no_retry_after_is_for_ever(header: str) -> None:
    wait = parse_retry_after(header, now=datetime(2026, 11, 22, 10, tzinfo=UTC))
    assert wait is None or 0.0 <= wait <= LONGEST_PAUSE_SECONDS


async def test_a_request_that_an_open_breaker_keeps_back_takes_nothing_of_the_rate() -> None:
    endpoint = Endpoint(pool="p", url="http://x/v1", model="m", price=Price(), limits=Limits(tokens_per_minute=60))
    lane = Lane(endpoint, clock=lambda: 5.0, breaker=BreakerPolicy(failures=1), patience_seconds=60.0)
    lane.learn(Failed(Reason.SERVER_ERROR, "HTTP 500"))
    async with asyncio.timeout(5):  # where the clock stands still nobody ever gets what another one took
        for _ in range(3):
            with pytest.raises(LaneClosed):
                await lane.slot(1).__aenter__()


async def test_a_shorter_pause_does_not_end_a_longer_one() -> None:
    """Answers to requests of before come late, and in any order."""
    endpoint = Endpoint(pool="p", url="http://x/v1", model="m", price=Price())
    lane = Lane(endpoint, clock=lambda: 5.0, breaker=BreakerPolicy(), patience_seconds=60.0)
    for pause in (300.0, 1.0):
        lane.learn(Failed(Reason.THROTTLED, "HTTP 429", retry_after=pause))
    with pytest.raises(LaneClosed, match="300 s"):
        await asyncio.wait_for(lane.slot(1).__aenter__(), 5)
