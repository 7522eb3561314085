"""An evaluator over the bus in memory, with experts that fail as told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from support.controller_scene import Hours, a_world
from support.episode_world import RENDERER, FakeExperts, host_of
from toolorchestra.bus.memory import MemoryBus
from toolorchestra.controller.deferral import Deferrals
from toolorchestra.controller.evaluator import Evaluated, EvaluationRun, Evaluator
from toolorchestra.controller.outbox import reckon
from toolorchestra.controller.ports import Delivery
from toolorchestra.controller.settings import EvaluationSuite
from toolorchestra.controller.wire import BusWire
from toolorchestra.ledger.history import read_history
from toolorchestra.ledger.journal import Journal, read_frames
from toolorchestra.ledger.journalled import JournalledLedger
from toolorchestra.ledger.ledger import LedgerConfig
from toolorchestra.policy.fake import FakeEngine
from toolorchestra.rollout.worker import Worker, WorkerSettings

TASKS = 5
ALLOWANCE = Decimal("0.5")
ALONE = "always:pool-cheap"


class Flaky(FakeExperts):
    """Breaks the worker on the first task that it is asked, whoever asks again."""

    broken: str = ""

    def worst_case_usd(self, *, pool, request):  # type: ignore[no-untyped-def]
        self.broken = self.broken or str(request.messages)
        if str(request.messages) == self.broken:
            raise RuntimeError("a bug of ours")
        return super().worst_case_usd(pool=pool, request=request)


class Life:
    """One incarnation's evaluator with a worker; the next one on the same folder and bus is another."""

    def __init__(
        self,
        folder: Path,
        experts: FakeExperts,
        engine: FakeEngine | None = None,
        *,
        bus: MemoryBus | None = None,
        cap: Decimal | None = None,
        step: int = 0,
        dispatch_timeout: float = 60.0,
    ) -> None:
        self.folder, self.experts = folder, experts
        self.bus = bus or MemoryBus(max_deliver=1)
        world = a_world()
        journal = Journal(folder / "journal" / "journal.bin")
        self.journalled, _ = JournalledLedger.open(
            config=LedgerConfig(2, 2),
            uid="uid",
            journal=journal,
            history=read_history(read_frames(journal.path)),
            step=step,
            cap=cap,
            allowance=ALLOWANCE,
        )
        self.hours = Hours()
        self.evaluator = Evaluator(
            wire=BusWire(self.bus),
            instances=world,
            uid="uid",
            journalled=self.journalled,
            deferrals=Deferrals(clock=self.hours),
            dispatch_timeout=dispatch_timeout,
            tick=0.02,
        )
        self.suite = EvaluationSuite("held-out", TASKS, world.suite, world.sampler)
        self.host = host_of(engine=engine or FakeEngine(RENDERER, ()), experts=experts)
        self.taken: list[Delivery] = []

    @asynccontextmanager
    async def running(self, *, workers: bool = True) -> AsyncIterator[None]:
        await reckon(self.bus, self.journalled, patience=60.0)
        settings = WorkerSettings(concurrency=4, lease_expiry_seconds=0.1, grace_seconds=0.1)
        worker = Worker(bus=self.bus, host=self.host, settings=settings)
        reading = asyncio.create_task(self._read())
        working = asyncio.create_task(worker.run()) if workers else None
        try:
            yield
        finally:
            worker.stop()
            if working is not None:
                await working
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self) -> None:
        async for delivery in self.evaluator.wire.deliveries():
            self.taken.append(delivery)
            await self.evaluator.take([delivery])

    async def evaluate(self, **job: Any) -> Evaluated:
        given = {"suite": self.suite, "system": ALONE, "name": ALONE}
        return await asyncio.wait_for(self.evaluator.run(EvaluationRun(**{**given, **job}), into=self.folder), 20)

    @property
    def spent(self) -> Decimal:
        """What the journal knows, on disk."""
        return read_history(read_frames(self.journalled.journal.path)).spent
