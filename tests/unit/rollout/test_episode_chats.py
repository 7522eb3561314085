"""Chats and turns with several calls."""

from __future__ import annotations

from decimal import Decimal

import pytest

from support.episode_cases import DOWN, limits
from support.episode_world import (
    CHAT_TASK,
    QA_TASK,
    RENDERER,
    VIEW,
    FakeExperts,
    answer,
    ask,
    host_of,
    order_of,
    play,
)
from toolorchestra.policy.fake import FakeEngine
from toolorchestra.rollout.trace import Ending, Trace


def ids_of(trace: Trace) -> tuple[int, ...]:
    return tuple(i for segment in trace.samples[0].segments for i in segment.token_ids)


async def test_a_chat_is_one_growing_sample() -> None:
    engine = FakeEngine(
        RENDERER, [ask(("oak", "2+2?"), ("elm", "two and two?")), "not <think>", "It is <answer>4</answer>"]
    )
    experts = FakeExperts({"pool-cheap": "three", "pool-dear": "four"})
    trace = await play(order_of(CHAT_TASK), host_of(engine=engine, experts=experts))
    assert (trace.ending, trace.answer, trace.components.outcome) == (Ending.ANSWERED, "4", 1.0)
    assert trace.components.calls == {"pool-cheap": 1, "pool-dear": 1}
    assert len(trace.samples) == 1
    assert trace.forks == 0
    ids = ids_of(trace)
    for prompt in engine.prompts:
        assert ids[: len(prompt)] == prompt
    assert [s.trained for s in trace.samples[0].segments] == [False, True] * 3
    text = RENDERER.decode(ids)
    assert "<tool_response>\nthree\n</tool_response>\n<tool_response>\nfour\n</tool_response>" in text
    assert "Error: a closing tag without its opening." in text
    assert not trace.samples[0].well_formed
    assert [request.messages[0]["content"] for _, request in experts.asked] == ["2+2?", "two and two?"]


async def test_calls_of_a_turn_run_at_once_and_count_the_slowest() -> None:
    experts = FakeExperts()
    outputs = [ask(*[("oak", str(i)) for i in range(6)]), "4"]
    trace = await play(order_of(CHAT_TASK), host_of(outputs, experts=experts))
    assert experts.most_in_flight == 6
    assert trace.components.calls == {"pool-cheap": 6}
    assert trace.components.actual_usd == 3
    assert trace.components.service_seconds == pytest.approx(2.0, abs=0.2)


async def test_seven_calls_are_one_too_many() -> None:
    outputs = [ask(*[("oak", str(i)) for i in range(7)]), "4"]
    trace = await play(order_of(CHAT_TASK), host_of(outputs))
    assert trace.turns[0].rejection == "too_many_calls"


async def test_the_whole_turn_is_reserved_before_its_first_call() -> None:
    experts = FakeExperts()
    order = order_of(CHAT_TASK, limits=limits(max_usd=Decimal("0.9")))
    trace = await play(order, host_of([ask(("oak", "a"), ("elm", "b"))], experts=experts))
    assert (trace.ending, experts.asked) == (Ending.EPISODE_BUDGET, [])


async def test_a_paid_sibling_of_a_failed_call_is_still_recorded() -> None:
    experts = FakeExperts({"pool-cheap": DOWN})
    trace = await play(order_of(CHAT_TASK), host_of([ask(("oak", "a"), ("elm", "b"))], experts=experts))
    assert [call.status for call in trace.turns[0].calls] == ["unavailable", "ok"]
    assert trace.components.actual_usd == Decimal("0.5")


async def test_half_a_surrogate_pair_from_an_expert_does_no_harm() -> None:
    trace = await play(
        order_of(CHAT_TASK), host_of([ask(("oak", "a")), "4"], experts=FakeExperts({"pool-cheap": "bad \ud800 text"}))
    )
    assert trace.turns[0].calls[0].observation == "bad ? text"
    assert trace.ending is Ending.ANSWERED


async def test_a_pinned_version_reaches_the_engine() -> None:
    engine = FakeEngine(RENDERER, [answer("oak")] * 2, version="0-3")
    assert (await play(order_of(version="0-3"), host_of(engine=engine))).ending is Ending.ANSWERED
    assert (await play(order_of(version="0-4"), host_of(engine=engine))).ending is Ending.ENGINE_LOST


async def test_the_task_never_shows_its_topic_or_answer() -> None:
    engine = FakeEngine(RENDERER, [answer("oak")])
    task = QA_TASK.model_copy(update={"topic": "secret-topic", "id": "secret-id"})
    await play(order_of(task), host_of(engine=engine))
    shown = RENDERER.decode(engine.prompts[0])
    assert "secret" not in shown
    assert all(expert.pool not in shown for expert in VIEW.experts)
