"""Detects a pool that answers every call with HTTP 400. Pure.

The words of a 400 say what it means (`complaint`). A 400 with unknown words is a refusal that the policy sees, because
the policy may have sent a bad request. But if a pool gives no other answer to many calls about several tasks, the
pool's configuration is wrong, and the policy is not the cause.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from toolorchestra.experts.errors import Reason

MOST_CALLS = 20
"""Calls in a row that were all answered by an unclear 400, before the pool counts as misconfigured."""
MOST_TASKS = 3
"""Number of different tasks among these calls: one odd task may make all its siblings' calls fail."""


@dataclass(frozen=True)
class PoolHealth:
    """The bad requests of one pool since it last served a call."""

    calls: int = 0
    tasks: frozenset[str] = frozenset()

    @property
    def misconfigured(self) -> bool:
        return self.calls >= MOST_CALLS and len(self.tasks) >= MOST_TASKS

    def after(self, *, status: str, reason: Reason | None, task: str) -> PoolHealth:
        """Return the health after a call (`rollout.trace.Call` has `status` and `reason`).

        Outages, limits and inputs that are too long change nothing. An answer, or a refusal by the model itself, resets
        the counts.
        """
        if reason is Reason.BAD_REQUEST:
            tasks = self.tasks if len(self.tasks) >= MOST_TASKS else self.tasks | {task}
            return replace(self, calls=self.calls + 1, tasks=tasks)
        served = status == "ok" or reason in (Reason.DECLINED, Reason.EMPTY, Reason.CONTENT_FILTER)
        return PoolHealth() if served else self


@dataclass(frozen=True)
class PoolsHealth:
    """The health of all pools. Call `after` for each call; `blame` says what is wrong with a pool, once it is known."""

    pools: Mapping[str, PoolHealth] = field(default_factory=dict[str, PoolHealth])

    def after(self, pool: str, *, status: str, reason: Reason | None, task: str) -> PoolsHealth:
        before = self.pools.get(pool, PoolHealth())
        return PoolsHealth({**self.pools, pool: before.after(status=status, reason=reason, task=task)})

    def blame(self, pool: str, *, said: str) -> str | None:
        """Return a message for a person if the pool must be misconfigured. `said` is the answer to its last call."""
        standing = self.pools.get(pool, PoolHealth())
        if not standing.misconfigured:
            return None
        return (
            f"expert {pool} answered the last {standing.calls} calls, about several tasks, with HTTP 400 and nothing"
            f" else; the last: {said}; correct the pool (its model, parameters or limits) and resume"
        )
