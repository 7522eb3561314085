"""Publishes orders on the bus, and withdraws them when their dispatches are dead (no longer live in the ledger).

Invariants: a dead dispatch is not published. One that dies during or after its publication is withdrawn. If no worker
ever got it, its reservation is released; otherwise it is kept for at most `patience` seconds. The journal records that
a cost is still expected before the bus forgets the task, so that a kill in between does not lose the cost.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from toolorchestra.bus.protocol import RolloutBus, Withdrawn
from toolorchestra.controller.ports import Wire
from toolorchestra.ledger.journalled import JournalledLedger
from toolorchestra.rollout.identity import Dispatch
from toolorchestra.rollout.order import Order

BOOKS_KEY = "books"
"""Key of the last incarnation that published on this bus; the bus has all orders of that incarnation only."""


@dataclass
class Outbox:
    """Publishes and withdraws orders. `live`: tells whether a dispatch is still live."""

    wire: Wire
    journalled: JournalledLedger
    live: Callable[[Dispatch], bool]
    patience: float
    """Seconds for which the cost of a dead dispatch is still expected: the most that a dispatch can take."""
    _sending: set[Dispatch] = field(default_factory=set[Dispatch])
    _fsyncing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _next_fsync: asyncio.Task[None] | None = None

    async def durable(self) -> None:
        """Return when everything that is in the journal now is on disk; concurrent callers share one fsync."""
        if self._next_fsync is None:
            self._next_fsync = asyncio.create_task(self._fsync())
        await asyncio.shield(self._next_fsync)

    async def _fsync(self) -> None:
        async with self._fsyncing:
            self._next_fsync = None
            await asyncio.to_thread(self.journalled.flush)

    async def send(self, order: Order, *, headers: Mapping[str, str] | None = None) -> None:
        """Publish the order of a journalled dispatch; wait while the bus does not accept it."""
        dispatch = Dispatch.parse(order.issue)
        if not self.live(dispatch):
            self.journalled.release([order.issue])
            return
        self._sending.add(dispatch)
        try:
            await self.wire.submit(order, headers=headers)
        finally:
            self._sending.discard(dispatch)
        if not self.live(dispatch):
            await self.withdraw([dispatch])

    async def withdraw(self, dispatches: Iterable[Dispatch]) -> None:
        """Withdraw dead dispatches from the bus; those in publication are withdrawn after it."""
        ids = [str(dispatch) for dispatch in dispatches if dispatch not in self._sending]
        if not ids:
            return
        self.journalled.await_bills(ids, until=time.time() + self.patience)
        await self.durable()
        taken = await self.wire.withdraw(ids)
        self.journalled.release(sorted(taken.unseen))

    async def lost(self, dispatches: Iterable[Dispatch]) -> tuple[list[Dispatch], list[Dispatch]]:
        """Split dispatches without a result into those that a worker had (lost), and those that are still queued."""
        out = {dispatch for dispatch in dispatches if dispatch not in self._sending}
        unseen = await self.wire.unseen(sorted(str(dispatch) for dispatch in out)) if out else frozenset[str]()
        queued = [dispatch for dispatch in dispatches if dispatch not in out or str(dispatch) in unseen]
        return [dispatch for dispatch in dispatches if dispatch not in queued], queued


async def reckon(bus: RolloutBus, journalled: JournalledLedger, *, patience: float) -> None:
    """Withdraw the orders of earlier incarnations, and settle the money that they had reserved; at the start of one."""
    unbilled = journalled.unbilled()
    known = await bus.get(BOOKS_KEY) == str(journalled.ledger.incarnation - 1).encode()
    taken = await _empty(bus, journalled, patience=patience)
    if known:
        # A dispatch that the bus does not have was never published: a result is stored before its task is removed.
        there = taken.seen | await bus.answered()
        journalled.release([id_ for id_ in unbilled if id_ not in there])
        journalled.flush()
    await bus.put(BOOKS_KEY, str(journalled.ledger.incarnation).encode())


async def empty(bus: RolloutBus, journalled: JournalledLedger, *, patience: float) -> None:
    """Withdraw all queued orders, at the end of an incarnation whose run may continue later."""
    await _empty(bus, journalled, patience=patience)


async def _empty(bus: RolloutBus, journalled: JournalledLedger, *, patience: float) -> Withdrawn:
    journalled.await_bills(journalled.unbilled(), until=time.time() + patience)
    journalled.flush()
    taken = await bus.drain()
    journalled.release(sorted(taken.unseen))
    journalled.flush()
    return taken
