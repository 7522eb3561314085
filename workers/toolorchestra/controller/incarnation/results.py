"""Distributes results from the bus: evaluation's to the evaluator, training's to the controller when it is ready.

Results that cannot be decoded go to the journal.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from toolorchestra.controller.arrival import UNDECODABLE, Undecodable
from toolorchestra.controller.controller import Controller
from toolorchestra.controller.evaluator import Evaluator
from toolorchestra.controller.incarnation.background import Background
from toolorchestra.controller.ports import Delivery, Wire
from toolorchestra.ledger.journalled import JournalledLedger
from toolorchestra.runs.run_dir import RunDir

BATCH = 256
"""Most results that are journalled with one fsync."""


@dataclass(frozen=True)
class Results:
    """Distributes the results that the wire delivers."""

    wire: Wire
    evaluator: Evaluator
    controller: asyncio.Future[Controller]
    """Set when the controller can take results: results of earlier incarnations are restored then."""

    async def read(self, background: Background) -> None:
        """Read and distribute results until cancelled."""
        queue: asyncio.Queue[Delivery] = asyncio.Queue()
        background.spawn(self._pull(queue))
        while True:
            batch = [await queue.get()]
            while not queue.empty() and len(batch) < BATCH:
                batch.append(queue.get_nowait())
            evaluation = [d for d in batch if self.evaluator.owns(d.arrival.dispatch)]
            if evaluation:
                await self.evaluator.take(evaluation)
            training = [d for d in batch if not self.evaluator.owns(d.arrival.dispatch)]
            if training:
                # Shielded: cancelling this task must not cancel the controller's future.
                controller = await asyncio.shield(self.controller)
                await controller.take(training)

    async def _pull(self, queue: asyncio.Queue[Delivery]) -> None:
        async for delivery in self.wire.deliveries():
            queue.put_nowait(delivery)


@dataclass(frozen=True)
class UndecodableResults:
    """Writes undecodable results into the journal, and the first of each reason into the events."""

    journalled: JournalledLedger
    run: RunDir
    _known: set[str] = field(default_factory=set[str])
    """Reasons that already have an event."""

    async def keep(self, refused: Undecodable) -> None:
        """Write the message to the journal on disk; only then may it be acknowledged."""
        self.journalled.keep_undecodable(refused.id, why=refused.why, raw=refused.raw)
        await asyncio.to_thread(self.journalled.flush)
        if refused.why not in self._known:
            self._known.add(refused.why)
            message = f"a result cannot be decoded ({refused.why}); the journal keeps it, its episode is sent again"
            self.run.event(UNDECODABLE, message, id=refused.id, bytes=len(refused.raw))
