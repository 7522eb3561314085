"""Errors of expert calls. The exception type says who caused the failure; the reason is for people and counters."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from toolorchestra.experts.usage import Usage


class Reason(StrEnum):
    """Why a call gave no reply. A closed set, so it can be a metric label."""

    # Caused by our setup or the network: ExpertUnavailable.
    CONNECTION = "connection"
    """Connection refused, unknown host, TLS failure, or a connection dropped before the reply."""
    TIMEOUT = "timeout"
    SERVER_ERROR = "server_error"
    THROTTLED = "throttled"
    BREAKER_OPEN = "breaker_open"
    GARBAGE = "garbage"
    """The reply is no chat completion: HTML, incomplete, no choices."""
    MISCONFIGURED = "misconfigured"
    """Wrong credentials, billing, model name, parameter names or limits. A retry cannot help; a person must act."""
    # Caused by the request: ExpertRefused.
    INPUT_TOO_LONG = "input_too_long"
    BAD_REQUEST = "bad_request"
    """HTTP 400 with an unknown text. If a pool answers with nothing else, see `pool_health`."""
    CONTENT_FILTER = "content_filter"
    DECLINED = "declined"
    """The model refused."""
    EMPTY = "empty"
    """A valid completion without content, such as one that spent all its tokens on thinking."""


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
    """A call to `pool` gave no reply. `usage` is what it cost anyway."""

    def __init__(self, *, pool: str, reason: Reason, detail: str, usage: Usage | None = None) -> None:
        self.pool, self.reason, self.detail = pool, reason, detail
        self.usage = usage or Usage()
        super().__init__(f"expert {pool}: {reason}: {detail}")


class ExpertUnavailable(CallError):
    """Infrastructure failed. The policy did not cause it, so the episode is deferred.

    `retry_after` is in seconds; None if the endpoint gave none. `attempts` counts requests that were sent.
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
    """The expert refused this request. The policy sees it as an observation."""

    @property
    def observation(self) -> str:
        """The text that the policy sees. It names no pool, because the policy knows only aliases."""
        return f"The model gave no answer ({self.reason.replace('_', ' ')}): {self.detail}"
