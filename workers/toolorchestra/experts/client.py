"""The expert client: OpenAI-compatible chat over HTTP, with metering, limits and retries.

A retry is free if the failed attempt certainly was not served. An attempt that may have been paid counts at its worst
case, and it is retried only if the same amount can be reserved again. So a call never costs more than was reserved for
it, unless an endpoint reports more tokens than the request allowed.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from itertools import count
from typing import Any

import aiohttp

from toolorchestra.experts import wire
from toolorchestra.experts.breaker import BreakerPolicy, Status
from toolorchestra.experts.chat import ChatReply, ChatRequest, Reserve
from toolorchestra.experts.classify import classify_broken, classify_exception, classify_reply
from toolorchestra.experts.endpoint import Endpoint
from toolorchestra.experts.errors import ExpertRefused, ExpertUnavailable, Reason, UnknownPool
from toolorchestra.experts.lane import Lane, LaneClosed
from toolorchestra.experts.metering import lost_usd, max_output_tokens, metered, tokens_used, worst_case_usd
from toolorchestra.experts.pacing import backoff_seconds
from toolorchestra.experts.simulated import SECONDS_HEADER
from toolorchestra.experts.usage import Usage
from toolorchestra.experts.verdict import Failed, Refused, Verdict
from toolorchestra.experts.worst_case import estimated_tokens, most_prompt_bytes
from toolorchestra.tasks.task import Task
from toolorchestra.tools.view import Price

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RetryPolicy:
    """Retry limits of one call. Times are in seconds; `attempts` includes the first one."""

    attempts: int = 4
    paid_attempts: int = 2
    """Number of attempts that may be paid: an outage that may send bills must not get many more requests."""
    base_seconds: float = 0.5
    cap_seconds: float = 20.0
    patience_seconds: float = 60.0
    """An endpoint that asks for a longer pause counts as unavailable: deferring costs less than waiting."""


@dataclass(frozen=True)
class _Exchange:
    """One attempt: its verdict and its service time (the simulated time if the reply states one)."""

    verdict: Verdict
    service_seconds: float = 0.0
    sent: bool = True
    """False: the lane was closed, so no request was sent."""


@dataclass
class _Bill:
    """What a call has cost so far."""

    started: float
    attempts: int = 0
    """Attempts that were sent."""
    paid: int = 0
    """Attempts that failed and may be billed; `lost_usd` is what they may have cost."""
    lost_usd: Decimal = Decimal(0)


class ExpertClient:
    """Calls experts by pool name. Use one per event loop and close it. Implements `chat.Experts`."""

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
        self._over_limit: set[str] = set()
        """Pools that reported more tokens than a request allowed; each is logged once."""
        patience = self._retry.patience_seconds
        self._lanes = {
            e.pool: Lane(e, clock=clock, breaker=breaker or BreakerPolicy(), patience_seconds=patience)
            for e in endpoints
        }

    async def ask(
        self,
        *,
        pool: str,
        request: ChatRequest,
        price: Price,
        task: Task | None = None,
        reserve: Reserve | None = None,
    ) -> ChatReply:
        """Send one request (see `chat.Experts.ask`). Cancellation releases every slot and the breaker's probe."""
        lane, bill = self._lane(pool), _Bill(self._clock())
        _refuse_oversize(lane.endpoint, request)
        body, headers = wire.body(lane.endpoint, request), wire.headers(lane.endpoint, task)
        lane.retries.request()
        for attempt in count(1):
            exchange = await self._attempt(lane, request, body=body, headers=headers)
            verdict = exchange.verdict
            bill.attempts += exchange.sent
            if not isinstance(verdict, Failed):
                return self._settled(lane.endpoint, request, exchange, bill=bill, price=price)
            bill.lost_usd += lost_usd(verdict, request, endpoint=lane.endpoint)
            bill.paid += verdict.maybe_paid
            wait = self._retry_wait(lane, verdict, attempt=attempt, paid=bill.paid)
            if wait is None or not _affordable(verdict, self.worst_case_usd(pool=pool, request=request), reserve):
                raise self._unavailable(lane.endpoint, verdict, bill=bill)
            await asyncio.sleep(wait)
        raise AssertionError("unreachable")

    def worst_case_usd(self, *, pool: str, request: ChatRequest) -> Decimal:
        """Return an upper bound for one attempt: one token per byte of the request, and the full output limit."""
        return worst_case_usd(self._lane(pool).endpoint, request)

    def breaker_status(self, pool: str) -> Status:
        """Return the state of a pool's breaker, for gauges."""
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
        self, lane: Lane, request: ChatRequest, *, body: Mapping[str, Any], headers: Mapping[str, str]
    ) -> _Exchange:
        """Send one request within the lane's limits, and report its outcome to the lane."""
        estimate = estimated_tokens(request.size_bytes) + max_output_tokens(lane.endpoint, request)
        try:
            async with lane.slot(estimate):
                exchange = await self._exchange(lane, body=body, headers=headers)
        except LaneClosed as closed:
            return _Exchange(closed.failed, sent=False)
        lane.settle(taken=estimate, used=tokens_used(exchange.verdict, reserved=estimate))
        lane.learn(exchange.verdict)
        return exchange

    async def _exchange(self, lane: Lane, *, body: Mapping[str, Any], headers: Mapping[str, str]) -> _Exchange:
        """Send the request and read the reply. Network errors become verdicts; only cancellation is raised."""
        endpoint, began = lane.endpoint, self._clock()
        url = f"{endpoint.url.rstrip('/')}/chat/completions"
        try:
            async with lane.session().post(url, json=body, headers=headers, allow_redirects=False) as reply:
                status, pause, now = reply.status, reply.headers.get("Retry-After"), datetime.now(UTC)
                try:
                    content = wire.redacted(await wire.read(reply), endpoint)
                except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
                    broken = classify_broken(error, status=status, retry_after=pause, now=now)
                    return _Exchange(broken, self._clock() - began)
                elapsed = self._clock() - began
                verdict = classify_reply(status=status, retry_after=pause, body=content, now=now)
                simulated = wire.seconds(reply.headers.get(SECONDS_HEADER))
        except (aiohttp.ClientError, OSError) as error:
            return _Exchange(classify_exception(error), self._clock() - began)
        if isinstance(verdict, Failed) or simulated is None:
            return _Exchange(verdict, elapsed)
        if not endpoint.simulated:
            # A simulator's time is not wall-clock time. Metered as real, it would falsify every report.
            detail = "this endpoint is a simulator; set spec.simulated: true on its pool"
            return _Exchange(Failed(Reason.MISCONFIGURED, detail), elapsed)
        return _Exchange(verdict, simulated)

    def _retry_wait(self, lane: Lane, failed: Failed, *, attempt: int, paid: int) -> float | None:
        """Return the seconds to wait before the next attempt, or None if there must be no other."""
        if not failed.retry or attempt >= self._retry.attempts or paid >= self._retry.paid_attempts:
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

    def _unavailable(self, endpoint: Endpoint, failed: Failed, *, bill: _Bill) -> ExpertUnavailable:
        usage = Usage(
            actual_usd=bill.lost_usd,
            wasted_usd=bill.lost_usd,
            wall_seconds=self._clock() - bill.started,
            simulated=endpoint.simulated,
        )
        return ExpertUnavailable(
            pool=endpoint.pool,
            reason=failed.reason,
            detail=_redacted(failed.detail, endpoint),
            usage=usage,
            retry_after=failed.retry_after,
            attempts=bill.attempts,
        )

    def _settled(
        self, endpoint: Endpoint, request: ChatRequest, exchange: _Exchange, *, bill: _Bill, price: Price
    ) -> ChatReply:
        """Return the metered reply, or raise the metered refusal."""
        verdict = exchange.verdict
        assert not isinstance(verdict, Failed)
        usage = Usage(
            service_seconds=exchange.service_seconds,
            wall_seconds=self._clock() - bill.started,
            simulated=endpoint.simulated,
        )
        served = verdict.served if isinstance(verdict, Refused) else verdict
        if served is not None:
            usage = metered(usage, served, request, nominal=price, endpoint=endpoint)
            if usage.actual_usd > worst_case_usd(endpoint, request):
                self._warn_once(endpoint.pool, usage)
        usage = replace(usage, actual_usd=usage.actual_usd + bill.lost_usd, wasted_usd=bill.lost_usd)
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

    def _warn_once(self, pool: str, usage: Usage) -> None:
        if pool not in self._over_limit:
            self._over_limit.add(pool)
            _log.warning(
                "expert %s reported %d tokens in and %d out, more than the request allowed; its bills count them",
                *(pool, usage.tokens_in, usage.tokens_out),
            )


def _affordable(failed: Failed, worst_usd: Decimal, reserve: Reserve | None) -> bool:
    """Return whether another attempt can be paid. A failed attempt that may have been paid used its reservation."""
    return not failed.maybe_paid or (reserve is not None and reserve(worst_usd))


def _refuse_oversize(endpoint: Endpoint, request: ChatRequest) -> None:
    """Refuse a request above the pool's input limit before anything is paid, so that the limit bounds the cost."""
    limit = endpoint.limits.max_input_tokens
    if limit is not None and request.size_bytes > most_prompt_bytes(limit):
        detail = f"the input has about {estimated_tokens(request.size_bytes)} tokens, the model takes {limit}"
        raise ExpertRefused(pool=endpoint.pool, reason=Reason.INPUT_TOO_LONG, detail=detail)


def _redacted(detail: str, endpoint: Endpoint) -> str:
    """Remove the API key from a message: some endpoints repeat the key that they were given."""
    return detail.replace(endpoint.api_key, "***") if endpoint.api_key else detail
