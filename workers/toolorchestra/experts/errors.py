"""Whose fault a failed expert call was. The type decides; the reason is for people and counters."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from toolorchestra.experts.usage import Usage


class Reason(StrEnum):
    """Why a call gave no reply: a closed set, fit for a metric's label."""

    # Ours or the network's: ExpertUnavailable.
    CONNECTION = "connection"
    """Refused, no such host, no TLS; or dropped before the reply."""
    TIMEOUT = "timeout"
    SERVER_ERROR = "server_error"
    THROTTLED = "throttled"
    BREAKER_OPEN = "breaker_open"
    GARBAGE = "garbage"
    """A reply that is no chat completion: HTML, cut off, no choices."""
    MISCONFIGURED = "misconfigured"
    """Credentials, billing, model name, parameter names or limits: no retry can help, a person must."""
    # The request's: ExpertRefused.
    INPUT_TOO_LONG = "input_too_long"
    BAD_REQUEST = "bad_request"
    """HTTP 400 in words that nobody understands: where a pool says nothing else, see `standing`."""
    CONTENT_FILTER = "content_filter"
    DECLINED = "declined"
    """The model said that it will not."""
    EMPTY = "empty"
    """A proper completion with nothing in it, such as one that spent all its tokens on thinking."""


class ExpertError(Exception):
    """Base of the errors of calls, of recordings of calls, and of the simulator."""


class UnknownPool(ExpertError, LookupError):
    """The client has no such pool: whoever started it gave it other pools than the training's. Nothing was sent."""

    def __init__(self, pool: str, *, known: Iterable[str]) -> None:
        self.pool = pool
        super().__init__(
            f"no expert pool {pool!r} here; there are {', '.join(sorted(known)) or 'none'}:"
            " start this worker with the pool file of the training (--pools)"
        )


class CallError(ExpertError):
    """A call to `pool` gave no reply. `usage` is what it cost all the same."""

    def __init__(self, *, pool: str, reason: Reason, detail: str, usage: Usage | None = None) -> None:
        self.pool, self.reason, self.detail = pool, reason, detail
        self.usage = usage or Usage()
        super().__init__(f"expert {pool}: {reason}: {detail}")


class ExpertUnavailable(CallError):
    """Infrastructure: never the policy's fault, so the episode is deferred.

    `retry_after` is in seconds, None where nobody said. `attempts` counts requests that were sent.
    """

    def __init__(
        self,
        *,
        pool: str,
        reason: Reason,
        detail: str,
        usage: Usage | None = None,
        retry_after: float | None = None,
        attempts: int = 0,
    ) -> None:
        super().__init__(pool=pool, reason=reason, detail=detail, usage=usage)
        self.retry_after, self.attempts = retry_after, attempts


class ExpertRefused(CallError):
    """The expert will not answer this request: an observation that the policy sees."""

    @property
    def observation(self) -> str:
        """What the policy is told. It names no pool: the policy knows aliases only."""
        return f"The model gave no answer ({self.reason.replace('_', ' ')}): {self.detail}"
