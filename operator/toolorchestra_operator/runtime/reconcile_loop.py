"""The queue's workers: take a key, observe, decide, carry the plan out; and what follows a failure.

| failure | what follows |
| --- | --- |
| the object changed meanwhile (Conflict) | another reconcile at once; back-off after a few in a row |
| too many requests (Throttled) | another one after the delay that the server named |
| the API server does not answer (transient) | back-off, at most half a minute |
| the API server refuses (Forbidden, Invalid, NameTaken) | a condition; another reconcile at the resync's interval |
| NATS does not answer, or refuses (MessagingUnreachable) | a condition; back-off, at most half a minute |
| NATS has not answered yet (MessagingPending) | another reconcile after a second |
| anything else | a condition with the cause; a log record; back-off |

Invariants: no failure ends a worker; a reconcile takes at most `pass_seconds`; a key whose reconcile failed is queued
again.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Generic, NoReturn, Protocol, TypeVar

from opentelemetry.context import Context
from opentelemetry.trace import SpanKind

from toolorchestra.kube.errors import ApiError, Conflict, Forbidden, Invalid, Throttled
from toolorchestra.telemetry import names
from toolorchestra.telemetry.groups import SpanGroup, enabled
from toolorchestra.telemetry.spans import attributes, fail, tracer
from toolorchestra_operator.kubernetes.backoff import Backoff
from toolorchestra_operator.kubernetes.manifest import Key, Manifest, ParentKind
from toolorchestra_operator.messaging.servers import MessagingPending, MessagingUnreachable
from toolorchestra_operator.planning.carry_out import NameTaken
from toolorchestra_operator.planning.plan import Plan
from toolorchestra_operator.planning.refusal import Refusal
from toolorchestra_operator.runtime.key_queue import KeyQueue
from toolorchestra_operator.runtime.liveness import Pulse
from toolorchestra_operator.runtime.metrics import Meter, Outcome
from toolorchestra_operator.runtime.refused import refused

_log = logging.getLogger(__name__)
_CONFLICTS: Final = 5
"""Up to this many conflicts in a row, the next reconcile follows at once."""
_TAKEN: Final = 3
"""Failures in a row before `NameTaken` is reported: an object of an earlier resource may still be in deletion."""
_TRANSIENT_CAP: Final = 30.0
"""The longest delay in seconds after a transient failure, so that work resumes soon after the API server is back."""
_PENDING: Final = 1.0
"""Seconds until a slow NATS server is asked again."""
_HOLD: Final = 1.0
"""Seconds for which a key is held back after a failure, whatever events come: the failed reconcile may cause them."""


class Observed(Protocol):
    """What a reconcile observed: the parent, and the facts that its kind needs."""

    @property
    def parent(self) -> Manifest:
        """The live object, with its UID."""
        ...


Seen = TypeVar("Seen", bound=Observed)


@dataclass(frozen=True)
class Reconciler(Generic[Seen]):
    """The two functions of one kind."""

    observe: Callable[[Key], Awaitable[Seen | None]]
    """Reads the facts; the only I/O. None: the parent is gone, and so is everything that it owns."""
    reconcile: Callable[[Seen, datetime], Plan]
    """Makes the plan: pure and synchronous."""


class CarriesOut(Protocol):
    """Carries out a plan about this parent (a live object)."""

    async def __call__(self, plan: Plan, *, parent: Manifest) -> None: ...


Find = Callable[[Key], Awaitable[Manifest | None]]
"""Returns a live parent; None: it is gone."""


def utc_now() -> datetime:
    """Return the current wall-clock time in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class _After:
    """What follows a reconcile."""

    outcome: Outcome
    again: float | None = None
    """Seconds until the next reconcile; None: at the resync, or at the next event."""
    hold: float = 0.0
    """Seconds for which events cannot make it come earlier."""
    plan: Plan = field(default_factory=Plan)
    error: BaseException | None = None


@dataclass
class _Undone:
    """The status of a plan while it is carried out, and the version of the parent that it is about."""

    status: Manifest | None = None
    version: str = ""

    def of(self, parent: Manifest) -> Manifest | None:
        """Return the status; None: the parent has changed since."""
        return self.status if parent["metadata"].get("resourceVersion", "") == self.version else None


@dataclass(frozen=True, kw_only=True)
class ReconcileLoop:
    """The loop that every worker runs (`work`). `find` and `carry_out` use the API server. Durations in seconds."""

    queue: KeyQueue
    reconcilers: Mapping[ParentKind, Reconciler[Any]]
    find: Find
    carry_out: CarriesOut
    backoff: Backoff
    meter: Meter
    resync_seconds: float = 300.0
    pass_seconds: float = 120.0
    now: Callable[[], datetime] = utc_now
    draw: Callable[[], float] = random.random

    async def work(self, pulse: Pulse) -> NoReturn:
        """Reconcile keys without end. Only a cancellation ends it; a reconcile that is cut off is repeated after a
        restart."""
        pulse.running = True
        try:
            while True:
                key = await self.queue.get()
                pulse.begins()
                await self.look(key)
                pulse.ends()
        finally:
            pulse.running = False

    async def look(self, key: Key) -> None:
        """Reconcile one key that was taken from the queue, to its end."""
        started, began = time.monotonic(), time.time_ns()
        after = _After("failed", again=0.0)
        try:
            after = await self._pass(key)
        finally:
            # Also after a cancellation: the key stays in the queue for the next worker.
            self.queue.done(key, hold=after.hold)
            if after.again is not None:
                self.queue.add(key, after=after.again)
        self.meter.looked(key, seconds=time.monotonic() - started, outcome=after.outcome)
        if after.outcome in ("changed", "failed"):
            _trace(key, after, began=began)

    async def _pass(self, key: Key) -> _After:
        undone = _Undone()
        try:
            async with asyncio.timeout(self.pass_seconds):
                return await self._reconcile(key, undone)
        except Exception as error:
            self.meter.failed(key, error)
            return await self._failed(key, error, undone)

    async def _reconcile(self, key: Key, undone: _Undone) -> _After:
        reconciler = self.reconcilers[key.kind]
        observed = await reconciler.observe(key)
        if observed is None:
            self.backoff.succeeded(key)
            return _After("gone")
        plan = reconciler.reconcile(observed, self.now())
        if not plan.empty:
            undone.status, undone.version = plan.status, observed.parent["metadata"].get("resourceVersion", "")
            await self.carry_out(plan, parent=observed.parent)
            self.meter.carried_out(key, plan)
        self.backoff.succeeded(key)
        return _After("unchanged" if plan.empty else "changed", again=plan.requeue_after, plan=plan)

    async def _failed(self, key: Key, error: Exception, undone: _Undone) -> _After:
        before = self.backoff.failures(key)
        if isinstance(error, MessagingPending):
            _log.info("%s: %s; again in %.1f s", key, error, _PENDING)
            return _After("failed", again=_PENDING, hold=_PENDING, error=error)
        if isinstance(error, Forbidden | Invalid | NameTaken):
            return await self._refused(key, error, undone)
        if isinstance(error, MessagingUnreachable):
            await self._tell(key, error, undone)
        transient = isinstance(error, MessagingUnreachable) or (isinstance(error, ApiError) and error.transient)
        delay = self.backoff.failed(key, cap=_TRANSIENT_CAP if transient else None)
        hold = min(delay, _HOLD)
        if isinstance(error, Conflict) and before < _CONFLICTS:
            _log.info("%s: %s; reconciling again", key, error)
            return _After("failed", again=0.0, error=error)
        if isinstance(error, ApiError) and error.retry_after is not None:
            delay = max(error.retry_after, delay if not isinstance(error, Throttled) else 0.0)
            hold = delay
        if isinstance(error, ApiError | MessagingUnreachable):
            _log.warning("%s: %s; again in %.1f s", key, error, delay)
        else:
            _log.error("%s: the reconcile failed; again in %.1f s", key, delay, exc_info=error)
            await self._tell(key, error, undone)
        return _After("failed", again=delay, hold=hold, error=error)

    async def _refused(self, key: Key, error: Refusal, undone: _Undone) -> _After:
        """Report the refusal on the resource. What a person has to change is retried only slowly."""
        delay = min(self.backoff.failed(key), self.resync_seconds)
        # A right may be granted a moment after the resource that needs it was created.
        pace = self.resync_seconds * (0.9 + 0.2 * self.draw()) if self.backoff.failures(key) > _CONFLICTS else delay
        _log.warning("%s: refused: %s; again in %.1f s", key, error, pace)
        after = _After("failed", again=pace, hold=min(delay, _HOLD), error=error)
        if isinstance(error, NameTaken) and self.backoff.failures(key) < _TAKEN:
            return after
        await self._tell(key, error, undone)
        return after

    async def _tell(self, key: Key, error: Exception, undone: _Undone) -> None:
        """Write the error as a condition; if that fails, log it."""
        try:
            async with asyncio.timeout(self.pass_seconds):
                parent = await self.find(key)
                if parent is None:
                    return
                plan = refused(parent, error, self.now(), decided=undone.of(parent))
                if not plan.empty:
                    await self.carry_out(plan, parent=parent)
        except Exception as another:
            _log.warning("%s: the refusal could not be written to its status: %s", key, another)


def _trace(key: Key, after: _After, *, began: int) -> None:
    """Write a span for a reconcile that changed something or failed, after its end; none for an unchanged one."""
    if not enabled(SpanGroup.DEFAULT):
        return
    whose = names.TRAINING if key.kind == "OrchestratorTraining" else names.POOL
    actions = [type(action).__name__ for action in after.plan.actions]
    actions += ["Status"] if after.plan.status is not None else []
    values = attributes({whose: key.name, names.NAMESPACE: key.namespace, names.ACTIONS: actions or None})
    span = tracer().start_span(
        names.RECONCILE, context=Context(), kind=SpanKind.INTERNAL, attributes=values, start_time=began
    )
    if after.error is not None:
        fail(span, after.error)
    span.end()
