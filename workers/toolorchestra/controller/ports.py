"""Protocols of the controller's surroundings; the real implementations use Ray, vLLM and NATS."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from toolorchestra.bus.protocol import Withdrawn
from toolorchestra.controller.arrival import Arrival
from toolorchestra.rollout.order import Order
from toolorchestra.trainer.batch import StepConfig, StepMetrics, TrainSample
from toolorchestra.weights.checkpoint import Checkpoint
from toolorchestra.weights.snapshot import Snapshot


@dataclass(frozen=True)
class Delivery:
    """An arrival and its acknowledgement. Call `ack` only after the journal has the arrival on disk."""

    arrival: Arrival
    ack: Callable[[], Awaitable[None]]


class Wire(Protocol):
    """Sends orders and receives arrivals."""

    async def submit(self, order: Order, *, headers: Mapping[str, str] | None = None) -> None:
        """Publish one order, with trace headers; wait while the stream is full. Idempotent per dispatch."""

    def deliveries(self) -> AsyncIterator[Delivery]:
        """Yield everything that workers send back, each at least once."""
        ...

    async def withdraw(self, ids: Iterable[str]) -> Withdrawn:
        """Withdraw orders; the result tells which of them no worker ever got."""
        ...

    async def unseen(self, ids: Iterable[str]) -> frozenset[str]:
        """Return those of the orders that are still queued and that no worker has had."""
        ...


class Trainers(Protocol):
    """The trainer group."""

    async def step(self, samples: Sequence[TrainSample], config: StepConfig) -> StepMetrics: ...

    async def snapshot(self, folder: Path, *, version: str) -> Snapshot: ...

    async def save(self, step: int, job: dict[str, Any]) -> Checkpoint:
        """Write and seal the checkpoint of a step; complete or absent."""
        ...

    async def export(self, folder: Path) -> None: ...


class EngineGroup(Protocol):
    """The policy's engines."""

    async def load(self, snapshot: Snapshot, *, adopt: bool = False) -> None: ...
