"""RolloutBus: how episodes travel between the controller and its workers. Two implementations pass one contract suite.

Invariants of every implementation:

- At least once: a submitted task is leased until one lease of it is settled, or it is dead; nothing that was
  acknowledged to the sender is lost.
- One result per id: the first result of a dispatch stands, later ones collapse. This is an optimisation: after a broker
  was killed a result may come a second time, acked or not. The journal decides.
- `submit` is idempotent by id; a submit that raised was not taken, and the same id may be submitted again.
- A task is delivered at most `max_deliver` times. Whoever holds the last delivery and vanishes makes it dead.
- Bodies are opaque; large ones travel beside the message and arrive whole or not at all.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from toolorchestra.bus.envelope import Envelope
from toolorchestra.bus.errors import BusError

HANDED_BACK = "handed back at the last delivery"
LOST = "the worker vanished at the last delivery"
"""Reasons that the bus itself gives."""
UNTOUCHED = "handed back, and nothing was spent on it"
ABANDONED = "the worker that had it vanished, and with it what it spent"
"""Reasons of a worker, with `deferred`: the order is not to be delivered again, but to be made anew."""
UNREADABLE = "the worker cannot read the order, and spent nothing on it"
"""Begins a worker's reason, with `dead`: what follows says why."""


class BusFull(BusError):
    """The queue refused a task (its limit is a margin and an alarm, not the admission bound). Submit it again later."""


class BusUnavailable(BusError):
    """The broker did not answer in time, or the connection is closed. The message may or may not have been taken."""


class BusGone(BusError):
    """The training's streams do not exist (not made yet, or removed with the training)."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """One delivery of a task to this worker, kept alive by `heartbeat` and ended by exactly one settling call."""

    token: int
    """The bus's own handle."""
    envelope: Envelope
    delivery: int
    """1 for the first."""
    last: bool
    """True: the task will not be delivered again."""


def same_id(lease: Lease, result: Envelope) -> None:
    """A result answers its task: ValueError where the ids differ."""
    if result.id != lease.envelope.id:
        raise ValueError(f"result {result.id!r} cannot settle the lease of {lease.envelope.id!r}")


class ResultKind(StrEnum):
    COMPLETED = "completed"
    """The body is the worker's result."""
    DEFERRED = "deferred"
    """Infrastructure (an expert out, a worker told to stop): to be dispatched again. The body is the worker's, or
    empty."""
    DEAD = "dead"
    """A worker broke on the task, or `max_deliver` of them vanished with it. The body is the worker's, or empty."""


@dataclass(frozen=True, kw_only=True)
class Received:
    """A result on the controller's side; redelivered (to the next controller) until it is acked."""

    token: int
    kind: ResultKind
    envelope: Envelope
    """Its `reason` says why, where the kind is not `completed`."""


@dataclass(frozen=True, kw_only=True)
class Depth:
    """Messages by where they are."""

    queued: int
    leased: int
    results: int
    """Sent and not yet acked by the controller, dead ones included."""
    redelivered: int = 0
    """Of the leased: delivered more than once."""


@dataclass(frozen=True, kw_only=True)
class Withdrawn:
    """Tasks that were on the queue and are no longer. An id in neither was not there: answered, or never queued."""

    unseen: frozenset[str] = frozenset()
    """No worker ever got it, and none will: it has cost nothing."""
    seen: frozenset[str] = frozenset()
    """A worker has it, or had it: it may have been paid for, and may still send a result."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A key and its new value; None: deleted."""

    key: str
    value: bytes | None


class WorkerBus(Protocol):
    """The worker's side."""

    @property
    def ack_wait(self) -> float:
        """Seconds of silence after which a lease is lost; send heartbeats every third of it."""
        ...

    async def lease(self, *, max_n: int, expiry: float) -> list[Lease]:
        """Up to `max_n` tasks; waits at most `expiry` seconds for the first and for no second one. Empty: nothing came.

        Survives a broker's restart (empty meanwhile). BusGone: the streams do not exist. BusUnavailable: closed.
        """
        ...

    async def heartbeat(self, lease: Lease) -> None:
        """Still working: the redelivery clock starts anew."""
        ...

    async def complete(self, lease: Lease, result: Envelope) -> None:
        """Send the result, wait until it is stored, then settle the task. Same id as the lease's.

        BusUnavailable: it could not be stored; the task will be delivered again.
        """
        ...

    async def defer(self, lease: Lease, result: Envelope) -> None:
        """An outage that is nobody's fault: burns no delivery; the controller dispatches the episode again."""
        ...

    async def fail(self, lease: Lease, result: Envelope) -> None:
        """The worker broke on it: dead at once, with this result, which says why."""
        ...

    async def hand_back(self, lease: Lease) -> None:
        """Told to stop: another worker gets it at once. On the last delivery it becomes `deferred`, not dead."""
        ...


class ControllerBus(Protocol):
    """The controller's side."""

    async def submit(self, task: Envelope) -> None:
        """Queue a task. Idempotent by id. BusFull: refused, not taken. BusUnavailable: unknown, submit it again."""
        ...

    async def cancel(self, ids: Iterable[str]) -> Withdrawn:
        """Drop the tasks of dead dispatches; unknown ids are none of its business.

        One that is being worked on is not delivered again, but may still send a result, which is then late. In doubt
        a task is `seen`.
        """
        ...

    async def drain(self) -> Withdrawn:
        """Drop all tasks, as `cancel` does."""
        ...

    async def unseen(self, ids: Iterable[str]) -> frozenset[str]:
        """Which of these tasks are still queued, and no worker has had them."""
        ...

    async def answered(self) -> frozenset[str]:
        """The ids whose result is sent and not yet acked by the controller."""
        ...

    def results(self) -> AsyncIterator[Received]:
        """Results as they come, each until it is acked. One consumer at a time; ends when the bus is closed."""
        ...

    async def ack(self, received: Received) -> None:
        """The result is in the journal, fsynced: forget it."""
        ...

    async def depth(self) -> Depth:
        """What is where, right now."""
        ...


class KeyValue(Protocol):
    """Small shared state: engines and their versions, progress, pause, allowances. Last write wins."""

    async def put(self, key: str, value: bytes) -> None:
        """Store durably."""
        ...

    async def get(self, key: str) -> bytes | None:
        """The newest value; None where there is none."""
        ...

    async def delete(self, key: str) -> None:
        """Idempotent."""
        ...

    def watch(self, prefix: str = "") -> AsyncIterator[Change]:
        """The present values, then every change in order (intermediate values may be skipped).

        `prefix` is a whole key, or ends with a dot, or is empty (all keys). Survives a broker's restart; ends when the
        bus is closed.
        """
        ...


class RolloutBus(WorkerBus, ControllerBus, KeyValue, Protocol):
    """Everything. Worker code takes a WorkerBus (and a KeyValue), the controller the whole."""

    async def close(self) -> None:
        """Hand back what arrived and was never leased, and disconnect. Idempotent."""
        ...
