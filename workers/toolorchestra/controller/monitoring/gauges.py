"""A run's gauges: metrics that are read at intervals, in addition to those of results and steps."""

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
"""Interval of the bus's gauges: longer, because each reading needs four requests."""


@dataclass
class Gauges:
    """Reads the gauges on the controller's own event loop: no other thread may read the ledger."""

    recorder: Recorder
    ledger: Callable[[], Ledger]
    pools: Sequence[str]
    engines: Callable[[], Sequence[str]]
    """Returns the states of the engines."""
    depth: Callable[[], Awaitable[Depth]]

    async def watch(self) -> None:
        """Record the gauges and the delay of the event loop, until cancelled."""
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
        """Record the depth of the bus's queues until cancelled; skip it while the bus does not answer."""
        while True:
            try:
                depth = await self.depth()
            except BusError:
                pass
            else:
                self.recorder.write(measurements.of_depth, depth)
            await asyncio.sleep(DEPTH_SECONDS)
