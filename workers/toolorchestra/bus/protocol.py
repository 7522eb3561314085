"""RolloutBus: the message bus between the controller and its workers. Two implementations pass one contract suite.

Invariants of every implementation:

- At least once: a submitted task is leased again until one of its leases is settled, or the task is dead. Nothing that
  was acknowledged to the sender is lost.
- One result per id: the first result of a dispatch counts, later ones are dropped. This is an optimisation: after a
  broker was killed, a result may come a second time, acked or not. The journal decides.
- `submit` is idempotent by id. A submit that raised BusFull was not taken; the same id may be submitted again.
- A task is delivered at most `max_deliver` times. If the worker with the last delivery vanishes, the task is dead.
- Bodies are opaque. Large ones are stored beside the message, and arrive complete or not at all.
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
"""Reasons that the bus itself sets."""
UNTOUCHED = "handed back, and nothing was spent on it"
ABANDONED = "the worker that had it vanished, and with it what it spent"
"""Reasons that a worker sets with `deferred`: do not deliver the order again, but make a new one."""
UNREADABLE = "the worker cannot read the order, and spent nothing on it"
"""Beginning of a worker's reason with `dead`; the rest says why."""


class BusFull(BusError):
    """The full queue refused a task: submit it later. Its limit is a margin and an alarm, not the admission bound."""


class BusUnavailable(BusError):
    """The broker did not answer in time, or the connection is closed. It may or may not have stored the message."""


class BusGone(BusError):
    """The training's streams do not exist: not made yet, or removed with the training."""


@dataclass(frozen=True, kw_only=True)
class Lease:
    """One delivery of a task to this worker, kept alive by `heartbeat` and ended by exactly one settling call."""

    token: int
    """Handle of the lease, for the bus."""
    envelope: Envelope
    delivery: int
    """Number of the delivery, from 1."""
    last: bool
    """Whether this is the last delivery of the task."""


def same_id(lease: Lease, result: Envelope) -> None:
    """Raise ValueError if the result's id differs from its task's."""
    if result.id != lease.envelope.id:
        raise ValueError(f"result {result.id!r} cannot settle the lease of {lease.envelope.id!r}")


class ResultKind(StrEnum):
    COMPLETED = "completed"
    """The episode ended. The body is the worker's result."""
    DEFERRED = "deferred"
    """The infrastructure failed (an expert is unavailable, a worker must stop): dispatch the episode again. The body is
    the worker's, or empty."""
    DEAD = "dead"
    """The task crashed a worker, or `max_deliver` workers vanished with it. The body is the worker's, or empty."""


@dataclass(frozen=True, kw_only=True)
class Received:
    """A result that the controller received. It is redelivered, also to the next controller, until it is acked."""

    token: int
    kind: ResultKind
    envelope: Envelope
    """The result. Its `reason` says why, if the kind is not `completed`."""


@dataclass(frozen=True, kw_only=True)
class Depth:
    """Numbers of messages by state."""

    queued: int
    leased: int
    results: int
    """Results without an ack of the controller, with dead tasks."""
    redelivered: int = 0
    """Leased tasks that were delivered more than once."""


@dataclass(frozen=True, kw_only=True)
class Withdrawn:
    """Tasks that were removed from the queue. An id in neither set was not there: answered, or never queued."""

    unseen: frozenset[str] = frozenset()
    """Tasks that no worker got, or will get: they cost nothing."""
    seen: frozenset[str] = frozenset()
    """Tasks that a worker has, or had: they may have cost money, and may still send a result."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """A key and its new value; None: deleted."""

    key: str
    value: bytes | None


class WorkerBus(Protocol):
    """The worker's part of the bus."""

    @property
    def ack_wait(self) -> float:
        """Seconds without a heartbeat after which a lease is lost. Send three heartbeats in this time."""
        ...

    async def lease(self, *, max_n: int, expiry: float) -> list[Lease]:
        """Return up to `max_n` tasks. Wait at most `expiry` seconds for the first, and not for more. Empty: no task.

        Continues after a restart of the broker; empty until then. BusGone: the streams do not exist. BusUnavailable:
        the bus is closed.
        """
        ...

    async def heartbeat(self, lease: Lease) -> None:
        """Say that the worker still runs the task: the redelivery timer starts again."""
        ...

    async def complete(self, lease: Lease, result: Envelope) -> None:
        """Send the result, wait until it is stored, then settle the task. The result has the lease's id.

        BusUnavailable: the result could not be stored; the task will be delivered again.
        """
        ...

    async def defer(self, lease: Lease, result: Envelope) -> None:
        """Settle a task that an outage ended. No delivery is used up; the controller dispatches the episode again."""
        ...

    async def fail(self, lease: Lease, result: Envelope) -> None:
        """Settle a task on which the worker failed: it is dead at once, with this result, which says why."""
        ...

    async def hand_back(self, lease: Lease) -> None:
        """Return a task because the worker must stop: another worker gets it at once. On the last delivery it becomes
        `deferred`, not dead."""
        ...


class ControllerBus(Protocol):
    """The controller's part of the bus."""

    async def submit(self, task: Envelope) -> None:
        """Queue a task. Idempotent by id. BusFull: not queued. BusUnavailable: not known; submit it again."""
        ...

    async def cancel(self, ids: Iterable[str]) -> Withdrawn:
        """Remove the tasks of dispatches that are no longer live. Unknown ids are ignored.

        A task in work is not delivered again, but may still send a result, which is then late. In doubt a task is
        `seen`.
        """
        ...

    async def drain(self) -> Withdrawn:
        """Remove all tasks, as `cancel` does."""
        ...

    async def unseen(self, ids: Iterable[str]) -> frozenset[str]:
        """Return which of these tasks are queued and were never delivered to a worker."""
        ...

    async def answered(self) -> frozenset[str]:
        """Return the ids whose result is stored, without an ack of the controller."""
        ...

    def results(self) -> AsyncIterator[Received]:
        """Yield results as they arrive, until they are acked. One consumer at a time; ends when the bus is closed."""
        ...

    async def ack(self, received: Received) -> None:
        """Remove a result from the bus. Call it when the result is in the journal, fsynced."""
        ...

    async def depth(self) -> Depth:
        """Return the current numbers of messages."""
        ...


class KeyValue(Protocol):
    """Small shared state: engines and their versions, progress, pause, allowances. The last write wins."""

    async def put(self, key: str, value: bytes) -> None:
        """Store a value durably."""
        ...

    async def get(self, key: str) -> bytes | None:
        """Return the newest value; None: there is none."""
        ...

    async def delete(self, key: str) -> None:
        """Delete a key. Idempotent."""
        ...

    def watch(self, prefix: str = "") -> AsyncIterator[Change]:
        """Yield the current values, then the changes in order (intermediate values may be skipped).

        `prefix` is a whole key, or ends with a dot, or is empty (all keys). Continues after a restart of the broker;
        ends when the bus is closed.
        """
        ...


class RolloutBus(WorkerBus, ControllerBus, KeyValue, Protocol):
    """The whole bus, for the controller. Workers use a WorkerBus and a KeyValue."""

    async def close(self) -> None:
        """Give back messages that arrived and were never leased, and disconnect. Idempotent."""
        ...
