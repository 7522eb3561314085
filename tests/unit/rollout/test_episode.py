"""Episodes in both modes, every ending of the table, both ledgers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from support.episode_world import (
    CHAT_TASK,
    ELM,
    LIMITS,
    OAK,
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
from toolorchestra.experts.chat import ChatReply, Reserve
from toolorchestra.experts.errors import ExpertRefused, ExpertUnavailable, Reason
from toolorchestra.experts.usage import Usage
from toolorchestra.policy.engine import Generation, NoEngine, VersionSpan
from toolorchestra.policy.fake import FakeEngine
from toolorchestra.rollout.episode import Episode
from toolorchestra.rollout.order import EpisodeLimits
from toolorchestra.rollout.trace import Ending, Trace
from toolorchestra.tasks.grader import Grade, GraderFailure
from toolorchestra.tasks.task import Task
from toolorchestra.tools.view import Price

DOWN = ExpertUnavailable(pool="pool-cheap", reason=Reason.SERVER_ERROR, detail="500 five times")
TOO_LONG = ExpertRefused(pool="pool-cheap", reason=Reason.INPUT_TOO_LONG, detail="input of 9000 tokens")


def limits(**changes: object) -> EpisodeLimits:
    return LIMITS.model_copy(update=changes)


async def test_an_answer_ends_the_episode_and_is_graded() -> None:
    trace = await play(order_of(), host_of([answer("oak")]))
    assert (trace.ending, trace.answer, trace.components.outcome) == (Ending.ANSWERED, "4", 1.0)
    assert (trace.topic, trace.instruction, trace.system) == ("sums", "2 + 2?", "policy")
    wrong = await play(order_of(), host_of([answer("oak")], experts=FakeExperts({"pool-cheap": "five"})))
    assert (wrong.ending, wrong.components.outcome) == (Ending.ANSWERED, 0.0)


async def test_calls_are_counted_by_pool_never_by_alias() -> None:
    trace = await play(order_of(), host_of([answer("elm")]))
    assert trace.components.calls == {"pool-dear": 1}
    (call,) = trace.turns[0].calls
    assert (call.tool, call.name, call.alias, call.arguments) == ("answer", "pool-dear", "elm", {"model": "elm"})


async def test_nominal_money_counts_every_token_of_every_model() -> None:
    trace = await play(order_of(), host_of([answer("oak")]))
    (turn,) = trace.turns
    policy = (turn.meter.tokens_in + turn.meter.tokens_out) * Decimal("0.0001")
    assert turn.meter.nominal_usd == policy
    assert trace.components.cost_usd == policy + 15 * Decimal("0.001")
    assert trace.components.actual_usd == Decimal("0.5")
    assert trace.components.service_seconds == pytest.approx(2.0, abs=0.2)


async def test_the_sample_is_what_was_prompted_and_sampled() -> None:
    engine = FakeEngine(RENDERER, [answer("oak")], version="2-9")
    trace = await play(order_of(), host_of(engine=engine))
    (sample,) = trace.samples
    prompt, output = sample.segments
    assert (prompt.token_ids, prompt.trained, prompt.logprobs) == (engine.prompts[0], False, ())
    assert output.token_ids == (*RENDERER.encode(answer("oak")), RENDERER.stop_token_ids[0])
    assert (output.trained, output.version, len(output.logprobs)) == (True, "2-9", len(output.token_ids))
    assert sample.well_formed


async def test_tokens_of_two_versions_are_two_segments() -> None:
    ids = (*RENDERER.encode(answer("oak")), RENDERER.stop_token_ids[0])

    class Switching(FakeEngine):
        async def generate(self, prompt: object, *, parameters: object, version: str | None = None) -> Generation:
            logprobs = tuple(-float(i) for i in range(len(ids)))
            spans = (VersionSpan("0-1", 0, 4), VersionSpan("0-2", 4, len(ids)))
            return Generation(token_ids=ids, logprobs=logprobs, spans=spans)

    trace = await play(order_of(), host_of(engine=Switching(RENDERER, ())))
    _, old, new = trace.samples[0].segments
    assert (old.version, old.token_ids, old.logprobs) == ("0-1", ids[:4], (0.0, -1.0, -2.0, -3.0))
    assert (new.version, new.token_ids, new.logprobs[0]) == ("0-2", ids[4:], -4.0)


async def test_a_refused_output_is_told_to_the_next_turn_in_a_sample_of_its_own() -> None:
    trace = await play(order_of(), host_of(["I think it is 5", answer("oak")]))
    assert [turn.rejection for turn in trace.turns] == ["no_call", None]
    assert [sample.well_formed for sample in trace.samples] == [False, True]
    second = RENDERER.decode(trace.samples[1].segments[0].token_ids)
    assert "Previous attempts:\n- Not a valid call: a tool call is required. You wrote: I think it is 5" in second
    assert trace.ending is Ending.ANSWERED
    assert trace.forks == 0


async def test_a_refusing_expert_is_an_observation_not_an_end() -> None:
    experts = FakeExperts({"pool-cheap": TOO_LONG})
    trace = await play(order_of(), host_of([answer("oak"), answer("elm")], experts=experts))
    assert [turn.calls[0].status for turn in trace.turns] == ["refused", "ok"]
    assert "input of 9000 tokens" in RENDERER.decode(trace.samples[1].segments[0].token_ids)
    assert "pool-cheap" not in RENDERER.decode(trace.samples[1].segments[0].token_ids)
    assert trace.components.calls == {"pool-cheap": 1, "pool-dear": 1}


async def test_unavailable_is_never_scored_and_names_the_expert() -> None:
    trace = await play(order_of(), host_of([answer("oak")], experts=FakeExperts({"pool-cheap": DOWN})))
    assert (trace.ending, trace.expert) == (Ending.EXPERT_UNAVAILABLE, "pool-cheap")
    assert trace.components.outcome is None
    assert trace.components.calls == {}
    assert "500 five times" in trace.detail


async def test_a_wrong_configuration_comes_before_an_outage() -> None:
    """The outage mends itself; the other must reach a person."""
    wrong = ExpertUnavailable(pool="pool-dear", reason=Reason.MISCONFIGURED, detail="HTTP 404: no such model")
    experts = FakeExperts({"pool-cheap": DOWN, "pool-dear": wrong})
    trace = await play(order_of(CHAT_TASK), host_of([ask(("oak", "a"), ("elm", "b"))], experts=experts))
    assert (trace.ending, trace.expert) == (Ending.EXPERT_MISCONFIGURED, "pool-dear")
    assert trace.ending.treatment == "unscored"
    assert [call.reason for call in trace.turns[0].calls] == [Reason.SERVER_ERROR, Reason.MISCONFIGURED]


async def test_a_call_says_why_it_gave_no_reply() -> None:
    bad = ExpertRefused(pool="pool-cheap", reason=Reason.BAD_REQUEST, detail="odd")
    trace = await play(order_of(), host_of([answer("oak"), answer("elm")], experts=FakeExperts({"pool-cheap": bad})))
    assert [turn.calls[0].reason for turn in trace.turns] == [Reason.BAD_REQUEST, None]
    assert Trace.model_validate_json(trace.model_dump_json()) == trace


class OneLost(FakeExperts):
    """Every call loses an attempt first, where there is room for another."""

    async def ask(self, *, reserve: Reserve, price: Price, pool: str, **fields: Any) -> ChatReply:
        if not reserve(self.worst_usd):
            usage = Usage(actual_usd=self.worst_usd, wasted_usd=self.worst_usd)
            raise ExpertUnavailable(pool=pool, reason=Reason.CONNECTION, detail="dropped", usage=usage)
        reply = await super().ask(pool=pool, price=price, **fields)
        usage = replace(reply.usage, actual_usd=self.worst_usd + self.actual_usd, wasted_usd=self.worst_usd)
        return replace(reply, usage=usage)


async def test_an_attempt_that_may_have_been_paid_is_paid_and_tried_again_within_the_allowance() -> None:
    order = order_of(allowance_usd=Decimal("1.0"))
    trace = await play(order, host_of([answer("oak")], experts=OneLost()))
    assert trace.ending is Ending.ANSWERED
    assert trace.components.actual_usd == Decimal("1.0")
    assert trace.turns[0].calls[0].meter.wasted_usd == Decimal("0.5")
    order = order_of(allowance_usd=Decimal("0.9"))
    trace = await play(order, host_of([answer("oak")], experts=OneLost()))
    assert (trace.ending, trace.components.actual_usd) == (Ending.EXPERT_UNAVAILABLE, Decimal("0.5"))


async def test_what_was_lost_is_never_the_policys_budget() -> None:
    """$0.5 of $1.4 were lost with an attempt, so that the second turn does not fit: nobody is blamed for that."""
    order = order_of(CHAT_TASK, limits=limits(max_usd=Decimal("1.4")))
    trace = await play(order, host_of([ask(("oak", "a")), ask(("oak", "b"))], experts=OneLost()))
    assert (trace.ending, trace.components.outcome) == (Ending.TOOL_FAILURE, None)
    assert "$0.5 of them for attempts at experts that failed" in trace.detail
    order = order_of(CHAT_TASK, limits=limits(max_usd=Decimal("0.9")))
    trace = await play(order, host_of([ask(("oak", "a")), ask(("oak", "b"))], experts=FakeExperts()))
    assert (trace.ending, trace.components.outcome) == (Ending.EPISODE_BUDGET, 0.0)


async def test_a_second_attempt_that_is_cut_off_has_cost_both() -> None:
    class Hanging(FakeExperts):
        async def ask(self, *, reserve: Reserve, **fields: Any) -> ChatReply:
            assert reserve(self.worst_usd)
            return await super().ask(**fields)

    experts = Hanging(gate=asyncio.Event(), worst_usd=Decimal("0.7"))
    trace = await play(order_of(limits=limits(timeout_seconds=0.05)), host_of([answer("oak")], experts=experts))
    assert (trace.ending, trace.components.actual_usd) == (Ending.TOOL_FAILURE, Decimal("1.4"))


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
    assert "run out" in trace.detail


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
