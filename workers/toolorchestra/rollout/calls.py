"""Executing the calls of one turn: reserve, call in parallel, settle, record.

Invariants: nothing is paid before the whole turn's worst case is reserved, and a call is not tried again after an
attempt that may have been paid before as much again is; every call that was asked for leaves exactly one `Call`; a call
in flight is waited for even when its sibling failed, because it is paid for; one that is cut off in flight, or breaks
in our own hands, has cost all that was reserved for it: unknown is never zero.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from toolorchestra.experts.chat import ChatRequest, Experts, Reserve
from toolorchestra.experts.errors import ExpertRefused, ExpertUnavailable, Reason, UnknownPool
from toolorchestra.experts.lenient_json import sound
from toolorchestra.experts.usage import Usage
from toolorchestra.rollout.budget import EpisodeBudget
from toolorchestra.rollout.components import calls_seconds
from toolorchestra.rollout.end import End
from toolorchestra.rollout.trace import Call, Ending, Meter
from toolorchestra.tasks.task import Task
from toolorchestra.telemetry.spans import chat_span, end_chat, fail, tool_span
from toolorchestra.tools.view import ExpertView

_log = logging.getLogger(__name__)

Status = Literal["ok", "refused", "rejected", "unavailable", "cancelled"]


@dataclass(frozen=True)
class ExpertRequest:
    """One call to make: `tool` and `arguments` as the policy wrote them, `chat` as the expert gets it."""

    tool: str
    expert: ExpertView
    chat: ChatRequest
    arguments: dict[str, Any] = field(default_factory=dict)

    def record(
        self, status: Status, observation: str = "", *, usage: Usage | None = None, reason: Reason | None = None
    ) -> Call:
        """The call with how it came out."""
        return Call(
            tool=self.tool,
            name=self.expert.pool,
            alias=self.expert.alias,
            arguments=self.arguments,
            status=status,
            reason=reason,
            observation=sound(observation),
            meter=Meter() if usage is None else meter_of(usage),
        )


def meter_of(usage: Usage) -> Meter:
    """A client's usage as the trace stores it."""
    return Meter(**vars(usage))


@dataclass(frozen=True)
class CallsResult:
    """The calls in the order they were asked for, and the end where one of them ends the episode."""

    calls: tuple[Call, ...]
    end: End | None = None


async def execute(
    requests: Sequence[ExpertRequest],
    *,
    experts: Experts,
    budget: EpisodeBudget,
    task: Task,
    cancelled: Callable[[tuple[Call, ...]], None],
) -> CallsResult:
    """Run a turn's calls at once. `cancelled` is told the calls where a cancellation keeps them from being returned."""
    try:
        worst = [experts.worst_case_usd(pool=r.expert.pool, request=r.chat) for r in requests]
    except UnknownPool as error:  # before anything is paid: a worker that was started with other pools
        return CallsResult(
            tuple(r.record("rejected", str(error)) for r in requests), End(Ending.TOOL_FAILURE, str(error))
        )
    if (end := budget.reserve(sum(worst, Decimal(0)))) is not None:
        return CallsResult(tuple(r.record("rejected", end.detail) for r in requests), end)
    reserved = list(worst)
    calls = [r.record("cancelled") for r in requests]  # what none of them will be, unless it never begins
    broken: list[str] = []

    async def make(i: int) -> None:
        began = time.monotonic()

        def unknown() -> Usage:
            """Nobody knows what it will be billed: all its worst cases are spent. The policy is charged nothing."""
            return Usage(actual_usd=reserved[i], wall_seconds=time.monotonic() - began)

        def reserve(usd: Decimal) -> bool:
            if budget.reserve(usd) is not None:
                return False
            reserved[i] += usd
            return True

        try:
            calls[i] = await _call(requests[i], experts=experts, task=task, reserve=reserve)
        except asyncio.CancelledError:
            calls[i] = requests[i].record("cancelled", usage=unknown())
            raise
        except Exception as error:  # a bug of ours: its siblings are waited for, and no bill is lost
            _log.exception("a call to %s broke", requests[i].expert.pool)
            broken.append(f"a call to {requests[i].expert.pool} broke the worker: {type(error).__name__}: {error}")
            calls[i] = requests[i].record("cancelled", usage=unknown())

    try:
        await asyncio.gather(*(make(i) for i in range(len(requests))))
    except asyncio.CancelledError:
        cancelled(tuple(calls))
        raise
    finally:
        budget.settle(sum(reserved, Decimal(0)), meters=tuple(call.meter for call in calls))
    budget.service_seconds += calls_seconds(calls)
    end = End(Ending.TOOL_FAILURE, sound(broken[0])) if broken else None
    return CallsResult(tuple(calls), end or _failure(calls))


def _failure(calls: Sequence[Call]) -> End | None:
    """The end of a turn in which experts were unavailable. A configuration that is wrong comes before an outage: that
    one mends itself."""
    failed = [call for call in calls if call.status == "unavailable"]
    if not failed:
        return None
    wrong = next((call for call in failed if call.reason is Reason.MISCONFIGURED), None)
    if wrong is None:
        return End(Ending.EXPERT_UNAVAILABLE, failed[0].observation, expert=failed[0].name)
    what = f"{wrong.observation}; mend the pool (its key, credit, model, parameters or limits) and resume"
    return End(Ending.EXPERT_MISCONFIGURED, what, expert=wrong.name)


async def _call(request: ExpertRequest, *, experts: Experts, task: Task, reserve: Reserve) -> Call:
    pool = request.expert.pool
    with tool_span(tool=request.tool, alias=request.expert.alias), chat_span(model=pool, pool=pool) as span:
        try:
            reply = await experts.ask(
                pool=pool, request=request.chat, price=request.expert.price, task=task, reserve=reserve
            )
        except ExpertUnavailable as error:
            fail(span, error)
            return request.record("unavailable", str(error), usage=error.usage, reason=error.reason)
        except ExpertRefused as error:
            call = request.record("refused", error.observation, usage=error.usage, reason=error.reason)
        else:
            call = request.record("ok", reply.text, usage=reply.usage)
        meter = call.meter
        end_chat(
            span,
            input_tokens=meter.tokens_in,
            output_tokens=meter.tokens_out,
            cached_tokens=meter.tokens_cached,
            nominal_usd=meter.nominal_usd,
            actual_usd=meter.actual_usd,
            service_seconds=meter.service_seconds,
        )
        return call
