"""RolloutBus in memory, for one process and one event loop: for tests and for embedding.

Redelivery, limits and duplicates work as in the contract. All messages are lost when the process ends.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field, replace

from toolorchestra.bus.envelope import Envelope, without_body
from toolorchestra.bus.protocol import (
    HANDED_BACK,
    LOST,
    BusFull,
    BusUnavailable,
    Change,
    Depth,
    Lease,
    Received,
    ResultKind,
    Withdrawn,
    same_id,
)
from toolorchestra.telemetry.propagation import inject


@dataclass
class _Task:
    envelope: Envelope
    deliveries: int = 0
    lease: Lease | None = None
    timer: asyncio.TimerHandle | None = None


@dataclass(eq=False)
class _Watcher:
    prefix: str
    changes: deque[Change] = field(default_factory=deque[Change])

    def put(self, change: Change) -> None:
        if (
            change.key == self.prefix
            or not self.prefix
            or (self.prefix[-1] == "." and change.key.startswith(self.prefix))
        ):
            self.changes.append(change)


class MemoryBus:
    """See `RolloutBus`. `ack_wait` in seconds; `max_tasks`: most tasks at once, with those in work."""

    def __init__(self, *, max_tasks: int = 10_000, ack_wait: float = 60.0, max_deliver: int = 3) -> None:
        self.max_tasks, self.ack_wait, self.max_deliver = max_tasks, ack_wait, max_deliver
        self._tokens = itertools.count(1)
        self._tasks: dict[str, _Task] = {}
        self._queue: deque[str] = deque()
        self._submitted: set[str] = set()
        self._answered: set[str] = set()
        self._results: dict[int, Received] = {}
        self._unseen: deque[int] = deque()
        self._values: dict[str, bytes] = {}
        self._watchers: set[_Watcher] = set()
        self._changed = asyncio.Event()
        self._closed = False

    # ── worker ─────────────────────────────────────────────────────────────────────────────────────────────────

    async def lease(self, *, max_n: int, expiry: float) -> list[Lease]:
        self._check_open()
        try:
            async with asyncio.timeout(expiry):
                await self._until(lambda: bool(self._queue))
        except TimeoutError:
            return []
        return [self._deliver(self._queue.popleft()) for _ in range(min(max_n, len(self._queue)))]

    def _deliver(self, id_: str) -> Lease:
        task = self._tasks[id_]
        task.deliveries += 1
        last = task.deliveries >= self.max_deliver
        task.lease = Lease(token=next(self._tokens), envelope=task.envelope, delivery=task.deliveries, last=last)
        self._arm(task)
        return task.lease

    def _arm(self, task: _Task) -> None:
        if task.timer is not None:
            task.timer.cancel()
        task.timer = asyncio.get_running_loop().call_later(self.ack_wait, self._expire, task)

    def _expire(self, task: _Task) -> None:
        if task.deliveries < self.max_deliver:
            self._requeue(task)
        else:
            self._settle(task)
            self._answer(ResultKind.DEAD, without_body(task.envelope, reason=LOST))
        self._wake()

    def _requeue(self, task: _Task) -> None:
        self._release(task)
        self._queue.append(task.envelope.id)

    def _release(self, task: _Task) -> None:
        task.lease = None
        if task.timer is not None:
            task.timer.cancel()
            task.timer = None

    def _settle(self, task: _Task) -> None:
        self._release(task)
        self._tasks.pop(task.envelope.id, None)

    def _held(self, lease: Lease) -> _Task | None:
        """Return the task of a lease; None: the lease has expired."""
        task = self._tasks.get(lease.envelope.id)
        return task if task is not None and task.lease is not None and task.lease.token == lease.token else None

    async def heartbeat(self, lease: Lease) -> None:
        self._check_open()
        if (task := self._held(lease)) is not None:
            self._arm(task)

    async def complete(self, lease: Lease, result: Envelope) -> None:
        self._finish(lease, ResultKind.COMPLETED, result)

    async def defer(self, lease: Lease, result: Envelope) -> None:
        self._finish(lease, ResultKind.DEFERRED, result)

    async def fail(self, lease: Lease, result: Envelope) -> None:
        self._finish(lease, ResultKind.DEAD, result)

    async def hand_back(self, lease: Lease) -> None:
        self._check_open()
        task = self._held(lease)
        if lease.last:
            self._finish(lease, ResultKind.DEFERRED, without_body(lease.envelope, reason=HANDED_BACK))
        elif task is not None:
            self._requeue(task)
            self._wake()

    def _finish(self, lease: Lease, kind: ResultKind, result: Envelope) -> None:
        self._check_open()
        same_id(lease, result)
        self._answer(kind, result)
        # A result ends the task even if its lease has expired: a redelivery would be useless work.
        if (task := self._tasks.get(lease.envelope.id)) is not None:
            self._settle(task)
            if task.envelope.id in self._queue:
                self._queue.remove(task.envelope.id)
        self._wake()

    def _answer(self, kind: ResultKind, result: Envelope) -> None:
        if result.id in self._answered:
            return
        self._answered.add(result.id)
        token = next(self._tokens)
        self._results[token] = Received(
            token=token, kind=kind, envelope=replace(result, headers=inject(result.headers))
        )
        self._unseen.append(token)

    # ── controller ─────────────────────────────────────────────────────────────────────────────────────────────

    async def submit(self, task: Envelope) -> None:
        self._check_open()
        if task.id in self._submitted:
            return
        if len(self._tasks) >= self.max_tasks:
            raise BusFull(f"{len(self._tasks)} tasks are queued; the limit is {self.max_tasks}")
        self._submitted.add(task.id)
        self._tasks[task.id] = _Task(replace(task, headers=inject(task.headers)))
        self._queue.append(task.id)
        self._wake()

    async def cancel(self, ids: Iterable[str]) -> Withdrawn:
        self._check_open()
        found = {id_: task for id_ in ids if (task := self._tasks.get(id_)) is not None}
        unseen = await self.unseen(found)
        for task in found.values():
            self._settle(task)
        self._queue = deque(id_ for id_ in self._queue if id_ in self._tasks)
        return Withdrawn(unseen=unseen, seen=frozenset(found) - unseen)

    async def drain(self) -> Withdrawn:
        return await self.cancel(list(self._tasks))

    async def unseen(self, ids: Iterable[str]) -> frozenset[str]:
        self._check_open()
        return frozenset(id_ for id_ in ids if id_ in self._tasks and not self._tasks[id_].deliveries)

    async def answered(self) -> frozenset[str]:
        self._check_open()
        return frozenset(received.envelope.id for received in self._results.values())

    async def results(self) -> AsyncIterator[Received]:
        # Results that an earlier consumer got and did not ack come first, as after a restart of the controller.
        self._unseen = deque(self._results)
        while True:
            await self._until(lambda: bool(self._unseen))
            if self._closed:
                return
            if (received := self._results.get(self._unseen.popleft())) is not None:
                yield received

    async def ack(self, received: Received) -> None:
        self._check_open()
        self._results.pop(received.token, None)

    async def depth(self) -> Depth:
        self._check_open()
        leased = [task for task in self._tasks.values() if task.lease is not None]
        again = sum(task.deliveries > 1 for task in leased)
        return Depth(queued=len(self._queue), leased=len(leased), results=len(self._results), redelivered=again)

    # ── shared state ───────────────────────────────────────────────────────────────────────────────────────────

    async def put(self, key: str, value: bytes) -> None:
        self._check_open()
        self._values[key] = value
        self._notify(Change(key=key, value=value))

    async def get(self, key: str) -> bytes | None:
        self._check_open()
        return self._values.get(key)

    async def delete(self, key: str) -> None:
        self._check_open()
        if self._values.pop(key, None) is not None:
            self._notify(Change(key=key, value=None))

    def _notify(self, change: Change) -> None:
        for watcher in self._watchers:
            watcher.put(change)
        self._wake()

    async def watch(self, prefix: str = "") -> AsyncIterator[Change]:
        self._check_open()
        watcher = _Watcher(prefix)
        self._watchers.add(watcher)
        try:
            for key, value in list(self._values.items()):
                watcher.put(Change(key=key, value=value))
            while True:
                await self._until(lambda: bool(watcher.changes))
                if self._closed:
                    return
                yield watcher.changes.popleft()
        finally:
            self._watchers.discard(watcher)

    async def close(self) -> None:
        self._closed = True
        for task in self._tasks.values():
            if task.timer is not None:
                task.timer.cancel()
        self._wake()

    def _check_open(self) -> None:
        if self._closed:
            raise BusUnavailable("the bus is closed")

    def _wake(self) -> None:
        """Wake every waiter once. Each waiter checks its own condition."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _until(self, ready: Callable[[], bool]) -> None:
        """Wait until `ready()` is true, or the bus is closed."""
        while not (self._closed or ready()):
            await self._changed.wait()
