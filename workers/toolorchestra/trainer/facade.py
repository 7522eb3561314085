"""The trainer group for an event loop: blocking calls run in a thread, and checkpoints get the job's state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from toolorchestra.trainer.batch import StepConfig, StepMetrics, TrainSample
from toolorchestra.trainer.group import TrainerGroup
from toolorchestra.trainer.supervised import SupervisedMetrics, supervised_step
from toolorchestra.trainer.trainer import Trainer
from toolorchestra.weights.checkpoint import Checkpoint, CheckpointStore
from toolorchestra.weights.snapshot import Snapshot

P = ParamSpec("P")
T = TypeVar("T")


class AsyncTrainers:
    """The controller's `Trainers` on a TrainerGroup; one call at a time. Snapshots have the engines' dtype."""

    def __init__(self, group: TrainerGroup, store: CheckpointStore, *, engine_dtype: str = "float32") -> None:
        self._group, self._store, self._dtype = group, store, engine_dtype
        self._lock = asyncio.Lock()

    async def _run(self, function: Callable[Concatenate[Trainer, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a function on every rank and return the result of rank 0."""
        async with self._lock:
            return (await asyncio.to_thread(lambda: self._group.run(function, *args, **kwargs)))[0]

    async def step(self, samples: Sequence[TrainSample], config: StepConfig) -> StepMetrics:
        return await self._run(Trainer.step, samples, config)

    async def supervised_step(self, samples: Sequence[TrainSample], config: StepConfig) -> SupervisedMetrics:
        return await self._run(supervised_step, samples, config)

    async def snapshot(self, folder: Path, *, version: str) -> Snapshot:
        written = await self._run(Trainer.snapshot, folder, version=version, dtype=self._dtype)
        if written is None:
            raise RuntimeError(f"rank 0 wrote no snapshot {version}")
        return written

    async def save(self, step: int, job: dict[str, Any]) -> Checkpoint:
        """Write and commit the checkpoint of a step."""
        folder = self._store.begin(step)
        await self._run(Trainer.save, folder)
        async with self._lock:
            return await asyncio.to_thread(self._store.commit, step, job=job)

    async def anchor(self) -> None:
        await self._run(Trainer.anchor)

    async def load(self, folder: Path) -> None:
        await self._run(Trainer.load, folder)

    async def set_rng(self, seed: int) -> None:
        await self._run(Trainer.set_rng, seed)

    async def export(self, folder: Path) -> None:
        await self._run(Trainer.export, folder)

    def close(self) -> None:
        self._group.close()
