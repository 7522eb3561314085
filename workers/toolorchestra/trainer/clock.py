"""Measures a step's wall-clock seconds by phase, without making the host wait for the device after each phase.

On CUDA a phase is the time between two events in the device's queue, read once at the end of the step. So work that the
host has only queued is counted in the phase where it runs. Work of the host itself (`host`) uses the host's clock.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Adds up seconds by name of the phase."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._start = time.perf_counter()
        self._seconds: dict[str, float] = {}
        self._marks: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []

    @contextmanager
    def host(self, name: str) -> Iterator[None]:
        """Measure a phase of work on the host."""
        start = time.perf_counter()
        yield
        self._add(name, time.perf_counter() - start)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Measure a phase of work on the device."""
        if self._device.type != "cuda":
            with self.host(name):
                yield
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        yield
        end.record()
        self._marks.append((name, begin, end))

    def read(self) -> dict[str, float]:
        """Return seconds by phase, and `total` since the clock was created. Waits for the device."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._add("total", time.perf_counter() - self._start)
        for name, begin, end in self._marks:
            self._add(name, begin.elapsed_time(end) / 1000)
        self._marks.clear()
        return self._seconds

    def _add(self, name: str, seconds: float) -> None:
        self._seconds[name] = self._seconds.get(name, 0.0) + seconds
