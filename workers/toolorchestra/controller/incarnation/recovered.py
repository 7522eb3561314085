"""Opens the ledger of an incarnation at its checkpoint, and withdraws its orders at the end."""

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
    """The journalled ledger, and the recovery of what earlier incarnations left."""

    journalled: JournalledLedger
    recovery: Recovery

    def money(self) -> dict[str, Any]:
        """Return the status fields of the spend: dollars that are spent, and dollars that are reserved."""
        spend = self.journalled.ledger.spend
        return {"spentUSD": str(spend.settled), "reservedUSD": str(spend.held)}


def open_ledger(
    assignment: Assignment, checkpoint: Checkpoint | None, *, journal: Callable[..., Journal] = Journal
) -> RecoveredLedger:
    """Load the history from the checkpoint and the journal's later frames, and open the ledger.

    After this the incarnation's number is known.
    """
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
    """Withdraw all queued orders at the end, so that no worker runs them at our cost.

    What the bus does not answer in time, the next incarnation asks again.
    """
    reader.cancel()  # a result that it takes would lead to new orders
    await asyncio.wait({reader})
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await empty(bus, journalled, patience=patience)
    except (BusError, TimeoutError) as error:
        _log.warning("queued orders were not withdrawn: %s", error or type(error).__name__)
