"""What the controller needs of the world around it, as protocols: the real ones are Ray, vLLM and NATS."""

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
    """An arrival and its acknowledgement, due only after the journal has it on disk."""

    arrival: Arrival
    ack: Callable[[], Awaitable[None]]


class Wire(Protocol):
    """Orders out, arrivals in."""

    async def submit(self, order: Order, *, headers: Mapping[str, str] | None = None) -> None:
        """Publish one order, with trace headers; waits while the stream is full. Idempotent by the order's dispatch."""

    def deliveries(self) -> AsyncIterator[Delivery]:
        """Everything that workers send back, at least once each."""
        ...

    async def withdraw(self, ids: Iterable[str]) -> Withdrawn:
        """Take orders back; tells which of them no worker ever got."""
        ...

    async def unseen(self, ids: Iterable[str]) -> frozenset[str]:
        """Which of these orders are still queued, and no worker has had them."""
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
