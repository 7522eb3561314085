"""Workers and controllers as processes, a real nats-server between them; deaths are SIGKILLs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from decimal import Decimal
from pathlib import Path

import nats

from faults.controller import Ended
from faults.forked import Forked
from faults.nats_bus import STREAMS
from faults.plan import Plan
from faults.process import controller, worker, write_plan
from faults.stage import KILLED, Stage
from toolorchestra.bus.streams import make_streams
from toolorchestra.local.nats_server import NatsServer
from toolorchestra.process import tail

EXPLAIN_SECONDS = 5.0


class NatsStage(Stage):
    """See `Stage`."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        super().__init__(plan, folder)
        self._server = NatsServer(directory=folder / "nats", sync_always=False)
        self._workers: dict[int, Forked] = {}
        self._begun = 0
        self._controller: Forked | None = None

    async def _start_bus(self) -> str:
        await self._server.start()
        client = await nats.connect(self._server.url)
        await make_streams(client.jetstream(), uid=f"f{self.plan.seed}", settings=STREAMS)
        await client.close()
        write_plan(self.folder, self.plan)
        return self._server.url

    async def _start_worker(self, i: int) -> None:
        log = self.folder / "logs" / f"worker-{self._begun}.log"
        self._workers[i] = Forked(worker, self.folder, self._begun, log=log)
        self._begun += 1

    async def _kill_worker(self, i: int) -> None:
        self._workers[i].kill()
        await self._workers[i].wait()

    async def _life(self, number: int, *, doom: str) -> Ended:
        log = self.folder / "logs" / f"controller-{number}.log"
        actors = [engine.url for engine in self.engines]
        child = self._controller = Forked(controller, self.folder, number, doom, actors, log=log)
        try:
            code = await child.wait()
        finally:
            child.kill()
        said = self.folder / f"ended-{number}.json"
        if said.exists():
            fields = json.loads(said.read_text())
            return Ended(**fields | {name: Decimal(fields[name]) for name in ("held", "settled")})
        if code in (-signal.SIGKILL, -signal.SIGUSR1, -signal.SIGTERM):
            return KILLED
        return Ended("Failed", message=f"exit status {code}: {tail(child.log, lines=30)}")

    def _kill_controller(self) -> None:
        if self._controller is not None:
            self._controller.signal(signal.SIGUSR1)

    def _stop_controller(self) -> None:
        if self._controller is not None:
            self._controller.signal(signal.SIGTERM)

    async def _kill_nats(self) -> None:
        os.kill(self._server.pid, signal.SIGKILL)

    async def _stop_rest(self) -> None:
        for child in [*self._workers.values(), *([self._controller] if self._controller else [])]:
            child.kill()
        await self._server.stop()

    async def explain(self) -> str:
        said = self.folder / f"explained-{self.lives - 1}"
        said.unlink(missing_ok=True)
        if self._controller is None or not self._controller.alive:
            return "no controller"
        self._controller.signal(signal.SIGUSR2)
        for _ in range(int(EXPLAIN_SECONDS / 0.1)):
            if said.exists():
                return said.read_text()
            await asyncio.sleep(0.1)
        return "the controller does not answer"
