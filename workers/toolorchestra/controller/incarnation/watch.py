"""Starts the gauges of an incarnation."""

from __future__ import annotations

from toolorchestra.bus.protocol import RolloutBus
from toolorchestra.controller.incarnation.assignment import Assignment
from toolorchestra.controller.incarnation.background import Background
from toolorchestra.controller.monitoring.gauges import Gauges
from toolorchestra.engines.fleet import Engines
from toolorchestra.ledger.journalled import JournalledLedger


def start_watch(
    assignment: Assignment, *, journalled: JournalledLedger, engines: Engines, bus: RolloutBus, background: Background
) -> None:
    """Update the gauges at intervals, if metrics are exported."""
    if not assignment.recorder.on:
        return
    gauges = Gauges(
        recorder=assignment.recorder,
        ledger=lambda: journalled.ledger,
        pools=[pool.metadata.name for pool in assignment.pools],
        engines=lambda: [status.state for status in engines.statuses],
        depth=bus.depth,
    )
    background.spawn(gauges.watch())
    background.spawn(gauges.watch_bus())
