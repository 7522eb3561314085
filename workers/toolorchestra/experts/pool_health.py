"""Where a pool stands that answers, but never anything else than HTTP 400. Pure.

What a 400 means is read from its words (`complaint`). Words that nobody knows are a refusal that the policy sees: it
may have asked something odd. But a pool that says nothing else, to many calls about several tasks, is not set up for
this training, and no policy can be blamed for that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from toolorchestra.experts.errors import Reason

MOST_CALLS = 20
"""Calls in a row, all answered by a 400 that nobody understands, that a pool is given the benefit of the doubt for."""
MOST_TASKS = 3
"""Tasks that they must be about: one odd task may make all its siblings' calls odd."""


@dataclass(frozen=True)
class PoolHealth:
    """One pool's bad requests since it last served anybody."""

    calls: int = 0
    tasks: frozenset[str] = frozenset()

    @property
    def misconfigured(self) -> bool:
        return self.calls >= MOST_CALLS and len(self.tasks) >= MOST_TASKS

    def after(self, *, status: str, reason: Reason | None, task: str) -> PoolHealth:
        """The standing after a call (`rollout.trace.Call` has `status` and `reason`). Outages, limits and inputs that
        are too long say nothing either way; an answer, or a refusal by the model itself, ends the doubt."""
        if reason is Reason.BAD_REQUEST:
            tasks = self.tasks if len(self.tasks) >= MOST_TASKS else self.tasks | {task}
            return replace(self, calls=self.calls + 1, tasks=tasks)
        served = status == "ok" or reason in (Reason.DECLINED, Reason.EMPTY, Reason.CONTENT_FILTER)
        return PoolHealth() if served else self


@dataclass(frozen=True)
class PoolsHealth:
    """All pools'. `after` each call; `blame` says what is wrong with a pool, once it is known."""

    pools: Mapping[str, PoolHealth] = field(default_factory=dict[str, PoolHealth])

    def after(self, pool: str, *, status: str, reason: Reason | None, task: str) -> PoolsHealth:
        before = self.pools.get(pool, PoolHealth())
        return PoolsHealth({**self.pools, pool: before.after(status=status, reason=reason, task=task)})

    def blame(self, pool: str, *, said: str) -> str | None:
        """What to tell a person, where the pool must be misconfigured; `said` is what its last call got to hear."""
        standing = self.pools.get(pool, PoolHealth())
        if not standing.misconfigured:
            return None
        return (
            f"expert {pool} answered the last {standing.calls} calls, about several tasks, with HTTP 400 and nothing"
            f" else; the last: {said}; mend the pool (its model, parameters or limits) and resume"
        )
