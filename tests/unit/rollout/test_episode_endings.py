"""How an episode ends, by its limits or by what breaks around it; and what it has cost then."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from support.episode_cases import TOO_LONG, limits
from support.episode_world import (
    CHAT_TASK,
    ELM,
    OAK,
    RENDERER,
    FakeExperts,
    answer,
    ask,
    host_of,
    order_of,
    play,
)
from toolorchestra.experts.chat import ChatReply
from toolorchestra.policy.engine import NoEngine
from toolorchestra.policy.fake import FakeEngine
from toolorchestra.rollout.episode import Episode
from toolorchestra.rollout.trace import Ending
from toolorchestra.tasks.grader import Grade, GraderFailure
from toolorchestra.tasks.task import Task


async def test_only_garbage_is_unparseable() -> None:
    trace = await play(order_of(limits=limits(max_turns=1)), host_of(["garbage"]))
    assert (trace.ending, trace.components.outcome) == (Ending.UNPARSEABLE, 0.0)
    assert not trace.samples[0].well_formed


async def test_too_many_errors() -> None:
    trace = await play(order_of(limits=limits(max_errors=3, max_turns=50)), host_of(lambda prompt: "no"))
    assert (trace.ending, len(trace.turns), trace.components.outcome) == (Ending.ERROR_LIMIT, 3, 0.0)


async def test_a_readable_output_makes_it_a_turn_limit() -> None:
    experts = FakeExperts({"pool-cheap": TOO_LONG})
    trace = await play(order_of(limits=limits(max_turns=2)), host_of([answer("oak"), "no"], experts=experts))
    assert (trace.ending, trace.components.outcome) == (Ending.TURN_LIMIT, 0.0)


async def test_a_problem_that_does_not_fit_is_a_context_limit() -> None:
    trace = await play(order_of(limits=limits(max_prompt_tokens=50)), host_of([answer("oak")]))
    assert (trace.ending, trace.turns, trace.samples) == (Ending.CONTEXT_LIMIT, (), ())


async def test_attempts_are_dropped_oldest_first_before_the_context_limit() -> None:
    engine = FakeEngine(RENDERER, [f"attempt {i} " + "x" * 180 for i in range(5)] + [answer("oak")])
    room = 1000 + 2 * 270
    trace = await play(order_of(limits=limits(max_prompt_tokens=room, max_turns=9)), host_of(engine=engine))
    assert trace.ending is Ending.ANSWERED
    last = RENDERER.decode(engine.prompts[-1])
    assert "attempt 4" in last
    assert "attempt 0" not in last
    assert max(len(prompt) for prompt in engine.prompts) <= room


async def test_an_output_cut_at_the_limit_is_truncated() -> None:
    trace = await play(
        order_of(CHAT_TASK, limits=limits(max_response_tokens=5, max_turns=1)), host_of(["The answer is 4"])
    )
    assert (trace.turns[0].rejection, trace.ending) == ("truncated", Ending.UNPARSEABLE)


async def test_a_call_that_could_pass_the_budget_is_never_made() -> None:
    experts = FakeExperts()
    order = order_of(limits=limits(max_usd=Decimal("0.4")), allowance_usd=Decimal("0.1"))
    trace = await play(order, host_of([answer("oak")], experts=experts))
    assert (trace.ending, trace.components.outcome, experts.asked) == (Ending.EPISODE_BUDGET, 0.0, [])
    assert trace.turns[0].calls[0].status == "rejected"
    assert trace.components.calls == {}


async def test_the_runs_cap_is_not_the_policys_fault() -> None:
    experts = FakeExperts()
    order = order_of(limits=limits(max_usd=Decimal(9)), allowance_usd=Decimal("0.4"))
    trace = await play(order, host_of([answer("oak")], experts=experts))
    assert (trace.ending, trace.components.outcome, experts.asked) == (Ending.SPEND_CAP, None, [])


async def test_service_time_runs_out() -> None:
    trace = await play(
        order_of(CHAT_TASK, limits=limits(max_service_seconds=3.0)), host_of(lambda prompt: ask(("oak", "well?")))
    )
    assert (trace.ending, len(trace.turns)) == (Ending.EPISODE_BUDGET, 2)


async def test_a_lost_engine() -> None:
    trace = await play(order_of(), host_of([]))
    assert (trace.ending, trace.components.outcome) == (Ending.ENGINE_LOST, None)
    assert "no more texts" in trace.detail


class Out(FakeEngine):
    """The training has no engine to ask: from the start, or from a turn on."""

    def __init__(self, outputs: Iterable[str] = (), *, at_the_start: bool = False) -> None:
        super().__init__(RENDERER, ())
        self._outputs, self._at_the_start = iter(outputs), at_the_start

    async def routable(self, *, version: str | None = None) -> None:
        if self._at_the_start:
            raise NoEngine("no routable engine in 120 s (paused)")

    def _text(self, prompt: Sequence[int]) -> str:
        if (text := next(self._outputs, None)) is None:
            raise NoEngine("no routable engine in 120 s (1 known)")
        return text


@pytest.mark.parametrize("at_the_start", [True, False])
async def test_an_episode_for_which_there_was_no_engine_was_never_played(at_the_start: bool) -> None:
    trace = await play(order_of(), host_of(engine=Out(at_the_start=at_the_start)))
    assert (trace.ending, len(trace.turns), trace.components.actual_usd) == (Ending.NO_ENGINE, 0, 0)
    assert "no routable engine" in trace.detail


async def test_an_engine_that_goes_out_in_the_middle_is_lost_with_its_bill() -> None:
    trace = await play(order_of(CHAT_TASK), host_of(engine=Out([ask(("oak", "well?"))])))
    assert (trace.ending, len(trace.turns)) == (Ending.ENGINE_LOST, 1)
    assert trace.components.actual_usd == Decimal("0.5")


async def test_the_wait_for_an_engine_is_not_on_the_episodes_clock() -> None:
    class Late(FakeEngine):
        async def routable(self, *, version: str | None = None) -> None:
            await asyncio.sleep(0.2)

    order = order_of(limits=limits(timeout_seconds=0.1))
    trace = await play(order, host_of(engine=Late(RENDERER, [answer("oak")])))
    assert trace.ending is Ending.ANSWERED


async def test_baselines_wait_for_no_engine() -> None:
    trace = await play(order_of(system="always:pool-cheap"), host_of(engine=Out(at_the_start=True)))
    assert trace.ending is Ending.ANSWERED


async def test_a_baseline_worker_without_engine_says_so() -> None:
    trace = await play(order_of(), replace(host_of(), engine=None))
    assert trace.ending is Ending.ENGINE_LOST


async def test_the_wall_clock_is_infrastructure() -> None:
    experts = FakeExperts(gate=asyncio.Event())
    order = order_of(limits=limits(timeout_seconds=0.05))
    trace = await play(order, host_of([answer("oak")], experts=experts))
    assert (trace.ending, trace.components.outcome) == (Ending.TOOL_FAILURE, None)
    assert "pool-cheap" in trace.detail
    hanging = FakeEngine(RENDERER, lambda prompt: "x", delay_seconds=5)
    trace = await play(order, host_of(engine=hanging))
    assert trace.ending is Ending.ENGINE_LOST


async def test_a_call_that_is_cut_off_has_cost_its_worst_case() -> None:
    """It may have been billed: unknown is never zero. Of its sibling that was answered the bill is known."""

    class OneHangs(FakeExperts):
        async def ask(self, *, pool: str, **fields: Any) -> ChatReply:
            self.gate = asyncio.Event() if pool == ELM.pool else None
            return await super().ask(pool=pool, **fields)

    experts = OneHangs(worst_usd=Decimal("0.7"), actual_usd=Decimal("0.2"))
    order = order_of(CHAT_TASK, limits=limits(timeout_seconds=0.1))
    trace = await play(order, host_of([ask(("oak", "2+2?"), ("elm", "2+2?"))], experts=experts))
    assert trace.ending is Ending.TOOL_FAILURE
    oak, elm = trace.turns[0].calls
    assert (oak.status, oak.meter.actual_usd) == ("ok", Decimal("0.2"))
    assert (elm.status, elm.meter.actual_usd, elm.meter.nominal_usd) == ("cancelled", Decimal("0.7"), 0)
    assert elm.meter.wall_seconds > 0
    assert trace.components.actual_usd == Decimal("0.9")
    assert trace.components.calls == {OAK.pool: 1}, "nobody knows that the other one reached its expert"


async def test_a_baseline_that_is_cut_off_has_cost_its_worst_case() -> None:
    experts = FakeExperts(gate=asyncio.Event(), worst_usd=Decimal("0.7"))
    order = order_of(system=f"always:{OAK.pool}", limits=limits(timeout_seconds=0.05))
    assert (await play(order, host_of(experts=experts))).components.actual_usd == Decimal("0.7")


async def test_a_failing_grader_is_never_scored() -> None:
    async def broken(task: Task, given: str | None) -> None:
        raise GraderFailure("no such dataset")

    trace = await play(order_of(), replace(host_of([answer("oak")]), grade=broken))
    assert (trace.ending, trace.components.outcome, trace.answer) == (Ending.GRADER_FAILURE, None, "4")


async def test_a_call_that_breaks_in_our_hands_loses_no_bill_and_waits_for_its_sibling() -> None:
    experts = FakeExperts(replies={OAK.pool: RuntimeError("no such case\ud800")}, worst_usd=Decimal("0.7"))
    trace = await play(order_of(CHAT_TASK), host_of([ask(("oak", "a"), ("elm", "b"))], experts=experts))
    assert (trace.ending, trace.components.outcome) == (Ending.TOOL_FAILURE, None)
    assert "broke the worker: RuntimeError: no such case?" in trace.detail
    oak, elm = trace.turns[0].calls
    assert (oak.status, oak.meter.actual_usd, oak.meter.nominal_usd) == ("cancelled", Decimal("0.7"), 0)
    assert (elm.status, elm.meter.actual_usd) == ("ok", Decimal("0.5"))
    assert trace.components.actual_usd == Decimal("1.2")


async def test_cancel_ends_as_cancelled_and_a_foreign_cancellation_raises() -> None:
    experts = FakeExperts(gate=asyncio.Event())
    episode = Episode(order_of(), host=host_of([answer("oak")], experts=experts))
    running = asyncio.create_task(episode.run())
    await experts.called.get()
    episode.cancel("the run is over")
    trace = await running
    assert (trace.ending, trace.detail, trace.components.outcome) == (Ending.CANCELLED, "the run is over", None)
    assert trace.components.actual_usd == experts.worst_usd

    grading = asyncio.Event()

    async def slow(task: Task, given: str | None) -> Grade:
        grading.set()
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    episode = Episode(order_of(), host=replace(host_of([answer("oak")]), grade=slow))
    running = asyncio.create_task(episode.run())
    await grading.wait()
    episode.cancel("the run is over")
    async with asyncio.timeout(5):
        trace = await running
    assert (trace.ending, trace.components.outcome, trace.components.actual_usd) == (
        Ending.CANCELLED,
        None,
        Decimal("0.5"),
    )

    running = asyncio.create_task(play(order_of(), host_of([answer("oak")], experts=experts)))
    await experts.called.get()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
