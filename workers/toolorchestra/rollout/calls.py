"""Executes the calls of one turn: reserve, call in parallel, settle, record.

Invariants:
- Nothing is paid before the worst case of the whole turn is reserved. After an attempt that may have been paid, a call
  is retried only if the same amount can be reserved again.
- Every requested call leaves exactly one `Call`.
- A call in flight is awaited even if its sibling failed, because it is paid for.
- A call that is cancelled in flight, or fails because of a bug in the worker, costs everything reserved for it: an
  unknown cost is never zero.
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
    """One call to make: `tool` and `arguments` as the policy wrote them, `chat` as it is sent to the expert."""

    tool: str
    expert: ExpertView
    chat: ChatRequest
    arguments: dict[str, Any] = field(default_factory=dict)

    def record(
        self, status: Status, observation: str = "", *, usage: Usage | None = None, reason: Reason | None = None
    ) -> Call:
        """Return the record of the call with its outcome."""
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
    """Convert a client's usage to the trace's meter."""
    return Meter(**vars(usage))


@dataclass(frozen=True)
class CallsResult:
    """The calls in the order of their requests. `end` is set if one of them ends the episode."""

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
    """Make a turn's calls in parallel. If the turn is cancelled, `cancelled` receives the calls."""
    try:
        worst = [experts.worst_case_usd(pool=r.expert.pool, request=r.chat) for r in requests]
    except UnknownPool as error:  # nothing is paid yet: the worker was started with other pools
        return CallsResult(
            tuple(r.record("rejected", str(error)) for r in requests), End(Ending.TOOL_FAILURE, str(error))
        )
    if (end := budget.reserve(sum(worst, Decimal(0)))) is not None:
        return CallsResult(tuple(r.record("rejected", end.detail) for r in requests), end)
    reserved = list(worst)
    calls = [r.record("cancelled") for r in requests]  # each is replaced, unless its task never begins
    broken: list[str] = []

    async def make(i: int) -> None:
        began = time.monotonic()

        def unknown() -> Usage:
            """Return the usage if the bill is unknown: everything reserved is spent. The policy is charged nothing."""
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
        except Exception as error:  # a bug in the worker: await the sibling calls and count the bill anyway
            _log.exception("a call to %s failed because of a bug in the worker", requests[i].expert.pool)
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
    """Return the end of a turn in which experts were unavailable, or None.

    A wrong configuration has priority over an outage, because an outage ends by itself."""
    failed = [call for call in calls if call.status == "unavailable"]
    if not failed:
        return None
    wrong = next((call for call in failed if call.reason is Reason.MISCONFIGURED), None)
    if wrong is None:
        return End(Ending.EXPERT_UNAVAILABLE, failed[0].observation, expert=failed[0].name)
    what = f"{wrong.observation}; correct the pool (its key, credit, model, parameters or limits) and resume"
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
