"""The ledger of an incarnation, opened at its checkpoint."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from toolorchestra.bus.errors import BusError
from toolorchestra.bus.protocol import RolloutBus
from toolorchestra.controller.incarnation.assignment import Assignment
from toolorchestra.controller.incarnation.background import CLOSE_SECONDS
from toolorchestra.controller.outbox import empty
from toolorchestra.ledger.history import Recovery
from toolorchestra.ledger.journal import Journal
from toolorchestra.ledger.journalled import JournalledLedger
from toolorchestra.ledger.resume import load_history
from toolorchestra.weights.checkpoint import Checkpoint

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RecoveredLedger:
    """The journalled ledger, and what earlier incarnations left to it."""

    journalled: JournalledLedger
    recovery: Recovery

    def money(self) -> dict[str, Any]:
        """The status' fields: what is spent, and what may still be billed at most."""
        spend = self.journalled.ledger.spend
        return {"spentUSD": str(spend.settled), "reservedUSD": str(spend.held)}


def open_ledger(
    assignment: Assignment, checkpoint: Checkpoint | None, *, journal: Callable[..., Journal] = Journal
) -> RecoveredLedger:
    """Read what the checkpoint kept of the journal, and the frames after it; the incarnation has its number then."""
    run, settings, status = assignment.run, assignment.settings, assignment.status
    step = checkpoint.step if checkpoint else 0
    history = load_history(run.journal, step=step, job=checkpoint.job if checkpoint else {})
    journalled, recovery = JournalledLedger.open(
        config=settings.ledger,
        uid=assignment.config.uid,
        journal=journal(run.journal, end=history.end),
        history=history,
        step=step,
        cap=settings.cap,
        allowance=settings.allowance,
    )
    journalled.flush()
    journalled.ledger.steps = assignment.spec.algorithm.steps
    status.incarnation = recovery.incarnation
    status.fields["step"] = step
    run.event("incarnation", f"incarnation {recovery.incarnation} starts at step {step}", step=step)
    return RecoveredLedger(journalled, recovery)


async def withdraw(
    bus: RolloutBus, journalled: JournalledLedger, *, reader: asyncio.Task[None], patience: float
) -> None:
    """The run ends for now: nothing that is queued is to be played and paid for. What the bus does not tell in time,
    the next incarnation asks."""
    reader.cancel()  # every result that it takes makes room for new orders
    await asyncio.wait({reader})
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await empty(bus, journalled, patience=patience)
    except (BusError, TimeoutError) as error:
        _log.warning("the queue was not emptied: %s", error or type(error).__name__)
