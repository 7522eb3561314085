"""The expert client: OpenAI-compatible chat over HTTP, metered, limited, retried where nothing can be paid twice.

At most one attempt of a call may have been paid for, so a call never spends more than `worst_case_usd` says.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from typing import Any

import aiohttp

from toolorchestra.experts import wire
from toolorchestra.experts.breaker import BreakerPolicy, Status
from toolorchestra.experts.chat import ChatReply, ChatRequest
from toolorchestra.experts.classify import Failed, Refused, Served, classify_exception, classify_reply
from toolorchestra.experts.endpoint import Endpoint
from toolorchestra.experts.errors import ExpertRefused, ExpertUnavailable, Reason, UnknownPool
from toolorchestra.experts.lane import Lane
from toolorchestra.experts.metering import estimated_tokens, max_output_tokens, metered, tokens_used, worst_case_usd
from toolorchestra.experts.pacing import backoff_seconds
from toolorchestra.experts.simulated import SECONDS_HEADER
from toolorchestra.experts.usage import Usage
from toolorchestra.tasks.task import Task
from toolorchestra.tools.view import Price


@dataclass(frozen=True)
class RetryPolicy:
    """Seconds, and attempts of one call, the first included."""

    attempts: int = 4
    base_seconds: float = 0.5
    cap_seconds: float = 20.0
    patience_seconds: float = 60.0
    """An endpoint that asks for a longer pause is unavailable: deferring costs less than waiting."""


@dataclass(frozen=True)
class _Exchange:
    """One attempt: what it amounts to and how long the service took, simulated seconds where it said so."""

    verdict: Served | Refused | Failed
    service_seconds: float


class ExpertClient:
    """Asks experts by pool name. One per event loop; close it. Implements `chat.Experts`."""

    def __init__(
        self,
        endpoints: Iterable[Endpoint],
        *,
        retry: RetryPolicy | None = None,
        breaker: BreakerPolicy | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
    ) -> None:
        self._retry = retry or RetryPolicy()
        self._clock = clock
        self._rng = rng or random.Random()
        patience = self._retry.patience_seconds
        self._lanes = {
            e.pool: Lane(e, clock=clock, breaker=breaker or BreakerPolicy(), patience_seconds=patience)
            for e in endpoints
        }

    async def ask(self, *, pool: str, request: ChatRequest, price: Price, task: Task | None = None) -> ChatReply:
        """See `chat.Experts.ask`. Cancelling it gives every slot and the breaker's probe back."""
        lane = self._lane(pool)
        started = self._clock()
        _refuse_oversize(lane.endpoint, request)
        body, headers = wire.body(lane.endpoint, request), wire.headers(lane.endpoint, task)
        lane.retries.request()
        for attempt in count(1):
            exchange = await self._attempt(lane, request, body=body, headers=headers, attempts=attempt - 1)
            verdict = exchange.verdict
            if isinstance(verdict, Failed):
                wait = self._retry_wait(lane, verdict, attempt=attempt)
                if wait is None:
                    raise self._unavailable(lane, request, verdict, attempts=attempt, started=started)
                await asyncio.sleep(wait)
                continue
            return self._settled(lane, request, exchange, price=price, started=started)
        raise AssertionError("unreachable")

    def worst_case_usd(self, *, pool: str, request: ChatRequest) -> Decimal:
        """A bound in actual dollars: every byte of the request a token, and all the output it may have."""
        endpoint = self._lane(pool).endpoint
        max_output = max_output_tokens(endpoint, request)
        return worst_case_usd(endpoint.price, prompt_bytes=request.size_bytes, max_output=max_output)

    def breaker_status(self, pool: str) -> Status:
        """State of a pool's breaker, for gauges."""
        return self._lane(pool).breaker.status

    async def close(self) -> None:
        for lane in self._lanes.values():
            await lane.close()

    async def __aenter__(self) -> ExpertClient:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self.close()

    def _lane(self, pool: str) -> Lane:
        try:
            return self._lanes[pool]
        except KeyError:
            raise UnknownPool(pool, known=self._lanes) from None

    async def _attempt(
        self, lane: Lane, request: ChatRequest, *, body: Mapping[str, Any], headers: Mapping[str, str], attempts: int
    ) -> _Exchange:
        """One request within the lane's limits, its outcome told to the breaker."""
        estimate = estimated_tokens(request.size_bytes) + max_output_tokens(lane.endpoint, request)
        async with lane.slot(estimate):
            lane.breaker, admitted = lane.breaker.admit(self._clock())
            if not admitted:
                raise ExpertUnavailable(
                    pool=lane.endpoint.pool,
                    reason=Reason.BREAKER_OPEN,
                    detail=f"failed {lane.breaker.failures} times in a row; not asked again yet",
                    retry_after=lane.breaker.wait_seconds(self._clock()),
                    attempts=attempts,
                )
            probe = lane.breaker.status is Status.HALF_OPEN
            try:
                exchange = await self._exchange(lane, body=body, headers=headers)
            except BaseException:  # cancelled: no verdict, but a probe must not stay out for ever
                if probe:
                    lane.breaker = lane.breaker.abandoned()
                raise
        verdict = exchange.verdict
        lane.settle(taken=estimate, used=tokens_used(verdict, reserved=estimate))
        if isinstance(verdict, Failed) and verdict.reason is not Reason.THROTTLED:
            lane.breaker = lane.breaker.failed(self._clock())
        else:
            lane.breaker = lane.breaker.succeeded()
        if isinstance(verdict, Failed) and verdict.retry_after is not None:
            lane.throttled_until = max(lane.throttled_until, self._clock() + verdict.retry_after)
        return exchange

    async def _exchange(self, lane: Lane, *, body: Mapping[str, Any], headers: Mapping[str, str]) -> _Exchange:
        """POST and read. Faults of the network become verdicts; nothing is raised but cancellation."""
        endpoint, began = lane.endpoint, self._clock()
        url = f"{endpoint.url.rstrip('/')}/chat/completions"
        try:
            async with lane.session().post(url, json=body, headers=headers, allow_redirects=False) as reply:
                try:
                    content = await wire.read(reply)
                except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
                    late = isinstance(error, TimeoutError)
                    reason, what = (Reason.TIMEOUT, "no end of the reply") if late else (Reason.GARBAGE, "cut off")
                    return _Exchange(Failed(reason, f"{what}: {error!r}", maybe_paid=True), self._clock() - began)
                elapsed = self._clock() - began
                verdict = classify_reply(
                    status=reply.status,
                    retry_after=reply.headers.get("Retry-After"),
                    body=content,
                    now=datetime.now(UTC),
                )
                said = wire.seconds(reply.headers.get(SECONDS_HEADER))
        except (aiohttp.ClientError, OSError) as error:
            return _Exchange(classify_exception(error), self._clock() - began)
        if isinstance(verdict, Failed) or said is None:
            return _Exchange(verdict, elapsed)
        if not endpoint.simulated:
            # Its clock is not ours: metering a simulator as real would falsify every report.
            detail = "this endpoint is a simulator; set spec.simulated: true on its pool"
            return _Exchange(Failed(Reason.MISCONFIGURED, detail), elapsed)
        return _Exchange(verdict, said)

    def _retry_wait(self, lane: Lane, failed: Failed, *, attempt: int) -> float | None:
        """Seconds to wait before the next attempt, None where there is none."""
        if not failed.retry or attempt >= self._retry.attempts:
            return None
        if (failed.retry_after or 0.0) > self._retry.patience_seconds or not lane.retries.retry():
            return None
        return backoff_seconds(
            attempt=attempt,
            base=self._retry.base_seconds,
            cap=self._retry.cap_seconds,
            retry_after=failed.retry_after,
            rng=self._rng,
        )

    def _unavailable(
        self, lane: Lane, request: ChatRequest, failed: Failed, *, attempts: int, started: float
    ) -> ExpertUnavailable:
        endpoint = lane.endpoint
        spent = self.worst_case_usd(pool=endpoint.pool, request=request) if failed.maybe_paid else Decimal(0)
        usage = Usage(actual_usd=spent, wall_seconds=self._clock() - started, simulated=endpoint.simulated)
        return ExpertUnavailable(
            pool=endpoint.pool,
            reason=failed.reason,
            detail=_redacted(failed.detail, endpoint),
            usage=usage,
            retry_after=failed.retry_after,
            attempts=attempts,
        )

    def _settled(
        self, lane: Lane, request: ChatRequest, exchange: _Exchange, *, price: Price, started: float
    ) -> ChatReply:
        """The metered reply, or the metered refusal raised."""
        endpoint, verdict = lane.endpoint, exchange.verdict
        assert not isinstance(verdict, Failed)
        served = verdict.served if isinstance(verdict, Refused) else verdict
        usage = Usage(
            service_seconds=exchange.service_seconds,
            wall_seconds=self._clock() - started,
            simulated=endpoint.simulated,
        )
        if served is not None:
            usage = metered(usage, served, request, nominal=price, actual=endpoint.price)
        if isinstance(verdict, Refused):
            detail = _redacted(verdict.detail, endpoint)
            raise ExpertRefused(pool=endpoint.pool, reason=verdict.reason, detail=detail, usage=usage)
        return ChatReply(
            text=verdict.text,
            usage=usage,
            tool_calls=verdict.tool_calls,
            finish_reason=verdict.finish_reason,
            model=verdict.model,
            usage_estimated=verdict.tokens_in is None or verdict.tokens_out is None,
        )


def _refuse_oversize(endpoint: Endpoint, request: ChatRequest) -> None:
    """Refuse before anything is paid what is clearly beyond the pool's input limit."""
    limit = endpoint.limits.max_input_tokens
    tokens = estimated_tokens(request.size_bytes)
    if limit is not None and tokens > limit:
        detail = f"the input has about {tokens} tokens, the model takes {limit}"
        raise ExpertRefused(pool=endpoint.pool, reason=Reason.INPUT_TOO_LONG, detail=detail)


def _redacted(detail: str, endpoint: Endpoint) -> str:
    """Some endpoints repeat the key they were given."""
    return detail.replace(endpoint.api_key, "***") if endpoint.api_key else detail
