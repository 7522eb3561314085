"""Episodes in both modes, every ending of the table, both ledgers."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from support.episode_cases import DOWN, TOO_LONG, limits
from support.episode_world import (
    CHAT_TASK,
    RENDERER,
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
from toolorchestra.policy.engine import Generation, VersionSpan
from toolorchestra.policy.fake import FakeEngine
from toolorchestra.rollout.trace import Ending, Trace
from toolorchestra.tools.view import Price


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
    assert "$0.5 of them for failed attempts at experts" in trace.detail
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
