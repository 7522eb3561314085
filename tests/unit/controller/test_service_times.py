"""What experts' calls lately took is told by the numbers of the calls themselves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from toolorchestra.controller.monitoring.service_times import WINDOW, ServiceTimes
from toolorchestra.rollout.trace import Call, Meter, Trace


def trace(*calls: Call) -> Trace:
    """All that is looked at of one."""
    return cast(Trace, SimpleNamespace(turns=[SimpleNamespace(calls=calls)]))


def call(seconds: float, *, name: str = "sage", status: Any = "ok") -> Call:
    return Call(tool="answer", name=name, status=status, meter=Meter(service_seconds=seconds))


def test_what_the_expert_is_not_to_blame_for_does_not_count() -> None:
    times = ServiceTimes()
    times.observe(trace(call(1.0), call(9.0, status="rejected"), call(9.0, status="cancelled")))
    times.observe(trace(call(0.0, status="unavailable"), call(2.0, name="abacus")))
    told = times.summary()
    assert list(told) == ["abacus", "sage"]
    assert told["sage"] == {"p50Milliseconds": 1000, "p99Milliseconds": 1000, "errorRate": 0.5, "calls": 2}


def test_an_expert_that_never_answered_has_no_times() -> None:
    times = ServiceTimes()
    times.observe(trace(call(0.0, status="unavailable")))
    told = times.summary()["sage"]
    assert told == {"p50Milliseconds": None, "p99Milliseconds": None, "errorRate": 1.0, "calls": 1}


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=WINDOW + 100))
def test_percentiles_are_calls_of_the_window(milliseconds: list[int]) -> None:
    times = ServiceTimes()
    for value in milliseconds:
        times.observe(trace(call(value / 1000)))
    newest, told = milliseconds[-WINDOW:], times.summary()["sage"]
    assert told["calls"] == len(newest)
    for share, found in ((0.5, told["p50Milliseconds"]), (0.99, told["p99Milliseconds"])):
        assert found in newest
        assert found is not None
        assert sum(value <= found for value in newest) >= share * len(newest)
        assert sum(value < found for value in newest) < share * len(newest)
