"""A controller's life with everything real but engines and trainers: the Job of `controller/job.py`, started
and ended as `controller/driver.py` does it."""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest.mock import patch

import aiohttp

from faults.actors import ActorHandle
from faults.buses import FaultyBus
from faults.life import Life, WatchedJournal
from faults.plan import Plan
from faults.tally import Tally
from faults.trainers import ScriptedTrainers, SnapshotWriter, manifest_snapshot
from toolorchestra.bus.protocol import RolloutBus
from toolorchestra.contract.driver_config import DriverConfig
from toolorchestra.controller import job as job_module
from toolorchestra.controller.job import Job
from toolorchestra.controller.pauses import Paused, Stopped
from toolorchestra.trainer.facade import AsyncTrainers
from toolorchestra.weights.checkpoint import Checkpoint, CheckpointStore

ISSUE_SECONDS = 20.0
"""After which an issue is lost, here: the real time-out is minutes."""
Connect = Callable[[], Awaitable[RolloutBus]]


@dataclass(frozen=True)
class Surroundings:
    """What a life finds when it begins."""

    plan: Plan
    config: DriverConfig
    connect: Connect
    actors: Sequence[str]
    """URLs of the engines' actors."""
    number: int
    """Of this life, from 0."""
    tally: Path
    shared_bus: bool
    snapshot: SnapshotWriter = manifest_snapshot


@dataclass
class Ended:
    """How a life ended: a state of the run, or the traceback of what killed it."""

    state: str
    message: str = ""
    reason: str = ""
    breaches: list[str] = field(default_factory=list[str])
    """What must hold at all times and did not."""
    held: Decimal = Decimal(0)
    settled: Decimal = Decimal(0)
    step: int = 0


class ScriptedJob(Job):
    """One incarnation over scripted engines and trainers."""

    def __init__(self, around: Surroundings, *, life: Life, rng: random.Random) -> None:
        super().__init__(around.config, job_module.RunDir(around.config.run))
        self.around, self.life, self.rng = around, life, rng
        self.session: aiohttp.ClientSession | None = None
        self.breaches: list[str] = []
        life.watch = self.look

    def _rehearse(self) -> None:
        """Of a real model only: the scripted one has no folder."""
        if self.around.plan.real:
            super()._rehearse()

    def _start_engines(self) -> None:
        """The real Engines, over the harness's actors."""
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        session = self.session = aiohttp.ClientSession(connector=connector)

        def find(number: int, **_: object) -> ActorHandle:
            return ActorHandle(self.around.actors[number], session=session)

        with patch.object(job_module, "engine_actor", find):
            super()._start_engines()

    async def _start_trainers(self, store: CheckpointStore, checkpoint: Checkpoint | None) -> None:
        group: Any = ScriptedTrainers(point=self.life.point, rng=self.rng, snapshot=self.around.snapshot)
        self._trainers = AsyncTrainers(group, store)
        if checkpoint is not None:
            await self._trainers.load(checkpoint.path)

    @property
    def _issue_timeout(self) -> float:
        return ISSUE_SECONDS * self.around.plan.slower

    def look(self) -> None:
        """What must hold at every point: the cap, and the bound."""
        books = getattr(self, "_books", None)
        if books is None or len(self.breaches) > 3:
            return
        ledger = books.ledger
        spend = ledger.spend
        if spend.cap is not None and spend.settled + spend.held > spend.cap:
            self.breaches.append(f"step {ledger.step}: ${spend.settled} settled + ${spend.held} held > ${spend.cap}")
        if len(ledger.groups) > ledger.config.bound:
            self.breaches.append(f"step {ledger.step}: {len(ledger.groups)} groups live, {ledger.config.bound} bound")

    async def close(self, *, keep_engines: bool = True) -> None:
        """Engines are the harness's and stay."""
        await super().close(keep_engines=True)
        if self.session is not None:
            await self.session.close()


async def live(around: Surroundings, *, life: Life, on_job: Callable[[ScriptedJob], None]) -> Ended:
    """One incarnation to its end."""
    rng = around.plan.rng("controller", around.number)
    seen = Tally(around.tally)

    class Bus:
        """Stands where the job looks for NATS."""

        @staticmethod
        async def connect(url: str, *, uid: str, name: str = "") -> FaultyBus:
            inner = await around.connect()
            rates = around.plan.messages
            return FaultyBus(inner, life=life, rates=rates, rng=rng, seen=seen, shared=around.shared_bus)

    with patch.object(job_module, "NatsBus", Bus), patch.object(job_module, "Journal", WatchedJournal):
        job = ScriptedJob(around, life=life, rng=rng)
        on_job(job)
        ended = await _drive(job)
    ended.breaches, ended.step = job.breaches, job.step
    seen.close()
    books = getattr(job, "_books", None)
    if books is not None:
        ended.held, ended.settled = books.ledger.spend.held, books.ledger.spend.settled
    return ended


async def _drive(job: ScriptedJob) -> Ended:
    """As controller/driver.py: drive."""
    ended = Ended("Failed")
    try:
        await job.start()
        await job.train()
        ended = Ended("Complete")
    except Stopped:
        await job.withdraw()
        await job.save()
        ended = Ended("Cancelled")
    except Paused as pause:
        await job.withdraw()
        await job.save()
        ended = Ended("Paused", message=str(pause), reason=pause.reason.value)
    except asyncio.CancelledError:
        raise
    except Exception as error:  # what a real controller dies of, to be told
        ended = Ended("Failed", message="".join(traceback.format_exception(error)))
    await job.finish(ended.state, message=ended.message)  # type: ignore[arg-type]
    await job.close()
    return ended
