"""Outages begin with a deferral and end with a call; what cannot heal by itself pauses the run."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from support.episode_world import VIEW
from toolorchestra.api.conditions import Reason
from toolorchestra.controller.deferral import FIRST_SECONDS, LONGEST_SECONDS, OUT_SECONDS, Deferrals
from toolorchestra.experts.errors import Reason as Why
from toolorchestra.experts.pool_health import MOST_CALLS, MOST_TASKS
from toolorchestra.rollout.trace import Call, Components, Ending, Sampling, Trace, Turn


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def trace(*calls: tuple[str, Any], ending: Ending = Ending.ANSWERED, at: float = 0.0, task: str = "t") -> Trace:
    made = [
        Call(
            tool="answer",
            name=pool,
            status="refused" if isinstance(how, Why) else how,
            observation="HTTP 400",
            reason=how if isinstance(how, Why) else None,
        )
        for pool, how in calls
    ]
    costs = Components(outcome=None, cost_usd=Decimal(0), actual_usd=Decimal(0), service_seconds=0, wall_seconds=0)
    return Trace(
        issue="u.0.0.0.0", task_id=task, source="s", topic="t", purpose="train", view=VIEW, sampling=Sampling(),
        samples=(), turns=(Turn(text="", calls=tuple(made)),), ending=ending, detail="it said so", components=costs,
        started_at=at,
    )  # fmt: skip


def test_only_a_call_that_succeeds_after_it_ends_an_outage() -> None:
    clock = Clock()
    deferrals = Deferrals(clock)
    out = trace(("dear", "ok"), ("dear", "unavailable"), ending=Ending.EXPERT_UNAVAILABLE, at=1000)
    deferrals.saw(out, deferred_for="dear")
    deferrals.saw(out, deferred_for="dear")
    deferrals.saw(trace(("cheap", "ok"), at=1001), deferred_for=None)
    deferrals.saw(trace(("dear", "ok"), at=999), deferred_for=None)
    assert set(deferrals.outages) == {"dear"}
    assert not deferrals.may_try("dear")
    assert deferrals.may_try("cheap")
    deferrals.saw(trace(("dear", "ok"), at=1001), deferred_for=None)
    assert deferrals.outages == {}
    assert deferrals.may_try("dear")


def test_tries_are_one_at_a_time_at_doubling_intervals() -> None:
    clock = Clock()
    deferrals = Deferrals(clock)
    deferrals.saw(trace(ending=Ending.EXPERT_UNAVAILABLE), deferred_for="dear")
    tries = []
    for _ in range(10 * int(LONGEST_SECONDS)):
        tries += [clock.now - 1000] if deferrals.may_try("dear") else []
        assert not deferrals.may_try("dear"), "a try is for one episode"
        clock.now += 1
    assert tries[:6] == [FIRST_SECONDS, 6, 14, 30, 62, 122]
    assert tries[6] - tries[5] == LONGEST_SECONDS


def test_a_try_that_did_not_ask_the_expert_lets_the_next_one_follow_at_once() -> None:
    """Else episodes that waited for an expert, and now choose another, go out one a minute for ever."""
    clock = Clock()
    deferrals = Deferrals(clock)
    deferrals.saw(trace(ending=Ending.EXPERT_UNAVAILABLE), deferred_for="dear")
    clock.now += FIRST_SECONDS
    for _ in range(20):
        assert deferrals.may_try("dear")
        deferrals.tries("u.0.0.0.0", pool="dear")
        assert not deferrals.may_try("dear")
        deferrals.saw(trace(("cheap", "ok"), at=clock.now), deferred_for=None)
    assert set(deferrals.outages) == {"dear"}, "nobody has asked it"
    assert deferrals.may_try("dear")
    deferrals.tries("u.0.0.0.0", pool="dear")
    deferrals.saw(trace(("dear", "unavailable"), ending=Ending.EXPERT_UNAVAILABLE), deferred_for="dear")
    assert not deferrals.may_try("dear")


def test_a_try_that_is_answered_ends_the_outage_whatever_the_workers_clock_says() -> None:
    """A node whose clock is behind by more than the outage lasted once left the run at one episode a minute."""
    clock = Clock()
    deferrals = Deferrals(clock)
    deferrals.tries("u.0.0.0.0", pool="dear")
    clock.now += 1
    deferrals.saw(
        trace(ending=Ending.EXPERT_UNAVAILABLE).model_copy(update={"issue": "u.0.1.0.0"}), deferred_for="dear"
    )
    deferrals.saw(trace(("dear", "ok"), at=clock.now - 3600), deferred_for=None)
    assert set(deferrals.outages) == {"dear"}, "it was sent before the outage began"
    clock.now += FIRST_SECONDS
    assert deferrals.may_try("dear")
    deferrals.tries("u.0.0.0.0", pool="dear")
    deferrals.saw(trace(("cheap", "ok"), ("dear", "ok"), at=clock.now - 3600), deferred_for=None)
    assert deferrals.outages == {}


def test_an_expert_that_says_that_it_is_misconfigured_pauses_at_once() -> None:
    deferrals = Deferrals(Clock())
    deferrals.saw(trace(ending=Ending.EXPERT_MISCONFIGURED), deferred_for="dear")
    pause = deferrals.pause(moved_at=1000)
    assert pause is not None
    assert pause.reason is Reason.EXPERT_MISCONFIGURED
    assert str(pause).startswith("expert dear is misconfigured: it said so; correct the pool")


@pytest.mark.parametrize("answers", [0, 1])
def test_an_expert_that_only_refuses_bad_requests_is_misconfigured(answers: int) -> None:
    deferrals = Deferrals(Clock())
    for number in range(MOST_CALLS):
        how = "ok" if answers and number == MOST_CALLS // 2 else Why.BAD_REQUEST
        deferrals.saw(trace(("dear", how), task=str(number % MOST_TASKS)), deferred_for=None)
    pause = deferrals.pause(moved_at=1000)
    assert (pause is None) == bool(answers)
    assert pause is None or pause.reason is Reason.EXPERT_MISCONFIGURED


def test_a_long_outage_pauses_only_a_run_in_which_nothing_else_moves() -> None:
    clock = Clock()
    deferrals = Deferrals(clock)
    deferrals.saw(trace(ending=Ending.EXPERT_UNAVAILABLE), deferred_for="dear")
    clock.now += OUT_SECONDS
    assert deferrals.pause(moved_at=clock.now - 60) is None
    pause = deferrals.pause(moved_at=0)
    assert pause is not None
    assert pause.reason is Reason.EXPERT_OUT
    assert "dear has been out for 30 minutes" in str(pause)
