"""A run's figures on their way out: what happens is told here, telemetry/metrics.py writes it.

Invariant: nothing of it blocks, raises or decides; a run without an exporter pays a function call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from toolorchestra.bus.protocol import BusError, Depth
from toolorchestra.controller.arrival import Arrival
from toolorchestra.controller.monitoring import measurements
from toolorchestra.controller.monitoring.measurements import Purpose
from toolorchestra.ledger.journalled import Verdict
from toolorchestra.ledger.ledger import Ledger
from toolorchestra.rollout.trace import Trace
from toolorchestra.telemetry import metrics as m
from toolorchestra.telemetry import names
from toolorchestra.telemetry.metrics import Measurement, Recorder

LAG_SECONDS = 0.5
GAUGE_SECONDS = 5.0
DEPTH_SECONDS = 15.0
"""Asking the bus costs four requests."""


@dataclass(frozen=True)
class RunMeter:
    """What controller, evaluator and wire tell."""

    recorder: Recorder = field(default_factory=partial(Recorder, None))

    def began(self) -> None:
        """The incarnation's first word."""
        self.recorder.write(measurements.beginning)

    def sent(self, issue: str, *, purpose: str) -> None:
        """An issue is on the bus."""
        self.recorder.write(partial(measurements.of_issue, issue, purpose=purpose))

    def buried(self) -> None:
        """A dead letter came."""
        self.recorder.write(lambda: [Measurement(m.DEAD_LETTERS, 1)])

    def arrived(self, arrival: Arrival, *, verdict: Verdict, purpose: Purpose) -> None:
        """A result was entered."""
        self.recorder.write(partial(measurements.of_arrival, arrival, verdict=verdict, purpose=purpose))

    def excluded(self, reasons: Iterable[str]) -> None:
        """Episodes never got a result."""
        self.recorder.write(partial(measurements.of_excluded, list(reasons)))

    def wasted(self, traces: Iterable[Trace], *, reason: str) -> None:
        """What was accepted will not be trained."""
        self.recorder.write(partial(measurements.of_wasted, list(traces), reason=reason))

    def warmed(self) -> None:
        """One step of the warm start."""
        self.recorder.write(lambda: [Measurement(m.STEPS, 1, {names.LABEL_KIND: "warm"})])

    def stepped(self, row: dict[str, Any], *, lags: Sequence[int]) -> None:
        """One step, as metrics.jsonl has it."""
        self.recorder.write(partial(measurements.of_step, row, lags))

    def evaluated(self, suite: str, figures: dict[str, float]) -> None:
        """The policy was evaluated."""
        self.recorder.write(partial(measurements.of_evaluation, suite, figures))

    def stands(self, ledger: Ledger) -> None:
        """How the books are now."""
        self.recorder.write(partial(measurements.of_books, ledger, now=time.time()))


@dataclass
class Gauges:
    """What is looked at from time to time, on the controller's own loop: the ledger is nobody else's to read."""

    meter: RunMeter
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
        write = self.meter.recorder.write
        write(lambda: [Measurement(m.LOOP_LAG, lag)])
        self.meter.stands(self.ledger())
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
                self.meter.recorder.write(partial(measurements.of_depth, depth))
            await asyncio.sleep(DEPTH_SECONDS)
