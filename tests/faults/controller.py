"""A controller's life with everything real but engines and trainers: the Job of
`controller/incarnation/incarnation.py`, started and ended as `controller/driver.py` does it."""

from __future__ import annotations

import asyncio
import random
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import aiohttp

from faults.actors import ActorHandle
from faults.buses import FaultyBus
from faults.life import Life, WatchedJournal
from faults.plan import Plan
from faults.tally import Tally
from faults.trainers import ScriptedTrainers, SnapshotWriter, manifest_snapshot
from toolorchestra.bus.protocol import RolloutBus
from toolorchestra.contract.driver_config import DriverConfig
from toolorchestra.controller.evaluator import Evaluator
from toolorchestra.controller.incarnation.assignment import Assignment, assignment_of
from toolorchestra.controller.incarnation.engines import start_engines
from toolorchestra.controller.incarnation.evaluation import Evaluation, evaluation_of
from toolorchestra.controller.incarnation.hardware import Hardware
from toolorchestra.controller.incarnation.incarnation import Incarnation
from toolorchestra.controller.incarnation.makers import Makers
from toolorchestra.controller.incarnation.model_check import check_model
from toolorchestra.controller.incarnation.recovered import RecoveredLedger, open_ledger
from toolorchestra.controller.pauses import Paused, Stopped
from toolorchestra.engines.fleet import Engines
from toolorchestra.ledger.journalled import JournalledLedger
from toolorchestra.runs.run_dir import RunDir
from toolorchestra.trainer.facade import AsyncTrainers
from toolorchestra.weights.checkpoint import Checkpoint, CheckpointStore

ISSUE_SECONDS = 20.0
"""After which a dispatch is lost, here: the real time-out is minutes."""
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


class ScriptedJob(Incarnation):
    """One incarnation over scripted engines and trainers."""

    def __init__(self, around: Surroundings, *, life: Life, rng: random.Random, connect: Connect) -> None:
        given = assignment_of(around.config, RunDir(around.config.run))
        given = replace(given, dispatch_timeout=ISSUE_SECONDS * around.plan.slower)
        makers = Makers(
            check_model=check_model if around.plan.real else lambda assignment: None,
            connect=lambda url, **_: connect(),
            start_engines=self._start_engines,
            open_ledger=self._open_books,
            evaluation_of=self._evaluation_of,
            start_trainers=self._start_trainers,
        )
        super().__init__(given, makers)
        self.around, self.life, self.rng = around, life, rng
        self.journalled: list[JournalledLedger] = []
        self.engines: list[Engines] = []
        self.evaluators: list[Evaluator] = []
        """What came up of each: one, or none yet."""
        self.breaches: list[str] = []
        life.watch = self.look

    def _start_engines(self, assignment: Assignment, hardware: Hardware, bus: RolloutBus) -> Engines:
        """The real Engines, over the harness's actors, which are the harness's and stay."""
        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))
        self.closing.add(session.close)

        def find(number: int, **_: object) -> ActorHandle:
            return ActorHandle(self.around.actors[number], session=session)

        engines = start_engines(assignment, hardware, bus, actor=find)
        self.engines.append(engines)
        return engines

    def _open_books(self, assignment: Assignment, checkpoint: Checkpoint | None) -> RecoveredLedger:
        journalled = open_ledger(assignment, checkpoint, journal=WatchedJournal)
        self.journalled.append(journalled.journalled)
        return journalled

    def _evaluation_of(self, *args: Any, **kwargs: Any) -> Evaluation:
        evaluation = evaluation_of(*args, **kwargs)
        self.evaluators.append(evaluation.evaluator)
        return evaluation

    async def _start_trainers(
        self, assignment: Assignment, hardware: Hardware, store: CheckpointStore
    ) -> AsyncTrainers:
        group: Any = ScriptedTrainers(point=self.life.point, rng=self.rng, snapshot=self.around.snapshot)
        return AsyncTrainers(group, store)

    def look(self) -> None:
        """What must hold at every point: the cap, and the bound."""
        if not self.journalled or len(self.breaches) > 3:
            return
        ledger = self.journalled[0].ledger
        spend = ledger.spend
        if spend.cap is not None and spend.settled + spend.held > spend.cap:
            self.breaches.append(f"step {ledger.step}: ${spend.settled} settled + ${spend.held} held > ${spend.cap}")
        if len(ledger.groups) > ledger.config.bound:
            self.breaches.append(f"step {ledger.step}: {len(ledger.groups)} groups live, {ledger.config.bound} bound")


async def live(around: Surroundings, *, life: Life, on_job: Callable[[ScriptedJob], None]) -> Ended:
    """One incarnation to its end."""
    rng = around.plan.rng("controller", around.number)
    seen = Tally(around.tally)

    async def connect() -> FaultyBus:
        inner = await around.connect()
        rates = around.plan.messages
        return FaultyBus(inner, life=life, rates=rates, rng=rng, seen=seen, shared=around.shared_bus)

    job = ScriptedJob(around, life=life, rng=rng, connect=connect)
    on_job(job)
    ended = await _drive(job)
    ended.breaches, ended.step = job.breaches, job.ending.step()
    seen.close()
    for journalled in job.journalled:
        ended.held, ended.settled = journalled.ledger.spend.held, journalled.ledger.spend.settled
    return ended


async def _drive(job: ScriptedJob) -> Ended:
    """As controller/driver.py: drive."""
    ended = Ended("Failed")
    try:
        training = await job.start()
        await training.run()
        ended = Ended("Complete")
    except Stopped:
        await job.ending.withdraw()
        await job.ending.save()
        ended = Ended("Cancelled")
    except Paused as pause:
        await job.ending.withdraw()
        await job.ending.save()
        ended = Ended("Paused", message=str(pause), reason=pause.reason.value)
    except asyncio.CancelledError:
        raise
    except Exception as error:  # what a real controller dies of, to be told
        ended = Ended("Failed", message="".join(traceback.format_exception(error)))
    await job.finish(ended.state, message=ended.message)  # type: ignore[arg-type]
    await job.close(keep_engines=True)  # they are the harness's
    return ended
