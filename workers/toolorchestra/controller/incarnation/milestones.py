"""Checkpoints, evaluations and exports, which a run makes between two steps."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from toolorchestra.controller.best import Score
from toolorchestra.controller.controller import Controller
from toolorchestra.controller.evaluations import Evaluations
from toolorchestra.controller.incarnation.background import Background
from toolorchestra.runs.run_dir import RunDir
from toolorchestra.runs.status import StatusWriter
from toolorchestra.trainer.facade import AsyncTrainers
from toolorchestra.weights.checkpoint import CheckpointStore


@dataclass(kw_only=True)
class Milestones:
    """Makes checkpoints, evaluations and exports of the controller's current step."""

    run: RunDir
    status: StatusWriter
    controller: Controller
    trainers: AsyncTrainers
    store: CheckpointStore
    evaluations: Evaluations
    background: Background
    saved: int | None
    """Step of the newest checkpoint; None where there is none."""

    @property
    def step(self) -> int:
        return self.controller.journalled.ledger.step

    async def checkpoint(self) -> None:
        """Save this step, unless it is saved already."""
        if self.saved != self.step:
            saved = await self.controller.checkpoint()
            self.saved = self.step
            where = {"step": saved.step, "path": str(saved.path), "digest": saved.digest}
            self.status.fields["checkpoint"] = where | {"time": round(time.time())}

    async def save(self) -> None:
        """Save a checkpoint and export the weights."""
        await self.checkpoint()
        await self.trainers.export(self.run.export / "last")

    async def evaluate(self, name: str, *, once: bool = False, during: bool = False) -> None:
        """Evaluate the current policy; if it is the best so far, export its weights and protect their checkpoint."""
        work = self.evaluations.policy(name, step=self.step, once=once, during=during)
        reached: Score | None = await self.background.unless_stopped(work)
        before = self.store.best_score()
        if reached is not None and (before is None or reached > Score.parse(before)):
            await self.checkpoint()
            await self.trainers.export(self.run.export / "best")
            await asyncio.to_thread(self.store.mark_best, self.step, score=reached.as_dict())
