"""The trainer group for an event loop: blocking calls run in a thread; checkpoints are sealed with the job's state."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from toolorchestra.trainer.batch import StepConfig, StepMetrics, TrainSample
from toolorchestra.trainer.group import TrainerGroup
from toolorchestra.trainer.supervised import SupervisedMetrics
from toolorchestra.weights.checkpoint import Checkpoint, CheckpointStore
from toolorchestra.weights.snapshot import Snapshot

T = TypeVar("T")


class AsyncTrainers:
    """`Trainers` of the controller over a TrainerGroup; one call at a time. Snapshots have the engines' dtype."""

    def __init__(self, group: TrainerGroup, store: CheckpointStore, *, engine_dtype: str = "float32") -> None:
        self._group, self._store, self._dtype = group, store, engine_dtype
        self._lock = asyncio.Lock()

    async def _call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        async with self._lock:
            return await asyncio.to_thread(function, *args, **kwargs)

    async def step(self, samples: Sequence[TrainSample], config: StepConfig) -> StepMetrics:
        return await self._call(self._group.step, samples, config)

    async def supervised_step(self, samples: Sequence[TrainSample], config: StepConfig) -> SupervisedMetrics:
        return await self._call(self._group.supervised_step, samples, config)

    async def snapshot(self, folder: Path, *, version: str) -> Snapshot:
        return await self._call(self._group.snapshot, folder, version=version, dtype=self._dtype)

    async def save(self, step: int, job: dict[str, Any]) -> Checkpoint:
        """Write and seal the checkpoint of a step."""
        folder = self._store.begin(step)
        await self._call(self._group.save, folder)
        return await self._call(self._store.commit, step, job=job)

    async def anchor(self) -> None:
        await self._call(self._group.anchor)

    async def load(self, folder: Path) -> None:
        await self._call(self._group.load, folder)

    async def set_rng(self, seed: int) -> None:
        await self._call(self._group.set_rng, seed)

    async def export(self, folder: Path) -> None:
        await self._call(self._group.export, folder)

    def close(self) -> None:
        self._group.close()
