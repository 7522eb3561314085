"""The lane of one endpoint: connections, limits, breaker, retry budget. It holds all state of the client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp

from toolorchestra.experts.breaker import Breaker, BreakerPolicy, Status
from toolorchestra.experts.endpoint import Endpoint
from toolorchestra.experts.errors import ExpertError, Reason
from toolorchestra.experts.pacing import RateBucket, RetryBudget
from toolorchestra.experts.verdict import Failed, Refused, Served, Verdict

# Below the 5 s after which uvicorn (vLLM) closes an idle connection, so that a reused connection is still open.
_KEEPALIVE_SECONDS = 4.0
_CONNECT_SECONDS = 10.0


class LaneClosed(ExpertError):
    """A request may not go out now. `failed` is the verdict of its call."""

    def __init__(self, failed: Failed) -> None:
        self.failed = failed
        super().__init__(failed.detail)


class Lane:
    """The connections and limits of one endpoint. Belongs to one event loop. `close()` closes the connections."""

    def __init__(
        self, endpoint: Endpoint, *, clock: Callable[[], float], breaker: BreakerPolicy, patience_seconds: float
    ) -> None:
        self.endpoint = endpoint
        self.breaker = Breaker(policy=breaker)
        self.retries = RetryBudget()
        self._throttled_until = 0.0
        """Time until which nothing is sent: a 429 with Retry-After applies to all callers."""
        self._last_failure: Failed | None = None
        self._clock, self._patience = clock, patience_seconds
        limits = endpoint.limits
        self._semaphore = asyncio.Semaphore(limits.max_concurrency)
        self._requests = _bucket(limits.requests_per_minute, clock())
        self._tokens = _bucket(limits.tokens_per_minute, clock())
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def slot(self, tokens: int) -> AsyncIterator[None]:
        """Hold one of the endpoint's concurrent requests; enter when rates, throttling and breaker allow it.

        Raises:
            LaneClosed: the endpoint asked for a longer pause than `patience_seconds`, or its breaker is open.
        """
        async with self._semaphore:
            # Only time can end this wait: there is no event to wait for.
            while (wait := self._wait(tokens)) > 0:  # noqa: ASYNC110
                await asyncio.sleep(wait)
            self.breaker, admitted = self.breaker.admit(self._clock())
            if not admitted:
                self.settle(taken=tokens, used=0)
                raise LaneClosed(self._breaker_open())
            probe = self.breaker.status is Status.HALF_OPEN
            try:
                yield
            except BaseException:  # cancelled: there is no verdict, but the probe must be released
                if probe:
                    self.breaker = self.breaker.abandoned()
                raise

    def learn(self, verdict: Verdict) -> None:
        """Update the endpoint's health from one attempt.

        Only a completion proves health. A 429 and a refused HTTP 400 come from before the model, so they prove nothing.
        """
        now = self._clock()
        if isinstance(verdict, Failed) and verdict.retry_after is not None:
            self._throttled_until = max(self._throttled_until, now + verdict.retry_after)
        match verdict:
            case Served() | Refused(served=Served()):
                self.breaker, self._last_failure = self.breaker.succeeded(), None
            case Refused() | Failed(reason=Reason.THROTTLED):
                self.breaker = self.breaker.abandoned()
            case Failed():
                self.breaker, self._last_failure = self.breaker.failed(now), verdict

    def settle(self, *, taken: int, used: int) -> None:
        """Correct the token rate when the real number is known."""
        if self._tokens is not None:
            self._tokens.settle(taken=taken, used=used)

    def session(self) -> aiohttp.ClientSession:
        """Return the lane's session. It is opened on first use, because that must happen inside the event loop."""
        if self._session is None:
            endpoint = self.endpoint
            headers = {"Authorization": f"Bearer {endpoint.api_key}"} if endpoint.api_key else {}
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=endpoint.limits.max_concurrency, keepalive_timeout=_KEEPALIVE_SECONDS
                ),
                timeout=aiohttp.ClientTimeout(total=endpoint.timeout_seconds, sock_connect=_CONNECT_SECONDS),
                headers=headers,
                cookie_jar=aiohttp.DummyCookieJar(),
            )
        return self._session

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _wait(self, tokens: int) -> float:
        """Return the seconds until this request may go out. If 0, the request has been counted against the rates."""
        now = self._clock()
        throttled = self._throttled_until - now
        if throttled > self._patience:
            detail = f"asked not to be called for another {throttled:.0f} s"
            raise LaneClosed(Failed(Reason.THROTTLED, detail, retry_after=throttled))
        if throttled > 0:
            return throttled
        wait = self._tokens.take(tokens, now) if self._tokens else 0.0
        if wait > 0:
            return wait
        wait = self._requests.take(1, now) if self._requests else 0.0
        if wait > 0 and self._tokens:
            self._tokens.settle(taken=tokens, used=0)
        return wait

    def _breaker_open(self) -> Failed:
        """Return the failure of an open breaker. A misconfiguration stays one while no request is sent."""
        last = self._last_failure
        reason = Reason.MISCONFIGURED if last and last.reason is Reason.MISCONFIGURED else Reason.BREAKER_OPEN
        detail = f"it failed {self.breaker.failures} times in a row; the last: {last.detail if last else 'unknown'}"
        return Failed(reason, detail, retry_after=self.breaker.wait_seconds(self._clock()))


def _bucket(per_minute: int | None, now: float) -> RateBucket | None:
    return None if per_minute is None else RateBucket(per_minute=per_minute, now=now)
