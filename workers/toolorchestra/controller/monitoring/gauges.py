"""A run's gauges: what is looked at from time to time, besides what results and steps tell when they come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from toolorchestra.bus.errors import BusError
from toolorchestra.bus.protocol import Depth
from toolorchestra.controller.monitoring import measurements
from toolorchestra.ledger.ledger import Ledger
from toolorchestra.telemetry import metrics as m
from toolorchestra.telemetry.metrics import Measurement, Recorder

LAG_SECONDS = 0.5
GAUGE_SECONDS = 5.0
DEPTH_SECONDS = 15.0
"""Asking the bus costs four requests."""


@dataclass
class Gauges:
    """What is looked at from time to time, on the controller's own loop: the ledger is nobody else's to read."""

    recorder: Recorder
    ledger: Callable[[], Ledger]
    pools: Sequence[str]
    engines: Callable[[], Sequence[str]]
    """States of the engines."""
    depth: Callable[[], Awaitable[Depth]]

    async def watch(self) -> None:
        """Until cancelled; also how late the loop runs."""
        worst, told = 0.0, time.monotonic()
        while True:
            due = time.monotonic() + LAG_SECONDS
            await asyncio.sleep(LAG_SECONDS)
            now = time.monotonic()
            worst = max(worst, now - due)
            if now - told >= GAUGE_SECONDS:
                self._look(worst)
                worst, told = 0.0, now

    def _look(self, lag: float) -> None:
        write = self.recorder.write
        write(lambda: [Measurement(m.LOOP_LAG, lag)])
        write(measurements.of_books, self.ledger(), now=time.time())
        write(lambda: measurements.of_experts(self.pools, waited_for=self.ledger().deferred_experts()))
        write(lambda: measurements.of_engines(self.engines()))

    async def watch_bus(self) -> None:
        """Until cancelled. A bus that does not answer is the run's concern elsewhere: here a figure is missing."""
        while True:
            try:
                depth = await self.depth()
            except BusError:
                pass
            else:
                self.recorder.write(measurements.of_depth, depth)
            await asyncio.sleep(DEPTH_SECONDS)
