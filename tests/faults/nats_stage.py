"""Workers and controllers as processes, a real nats-server between them; deaths are SIGKILLs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from decimal import Decimal
from pathlib import Path

import nats

from faults.controller import Ended
from faults.nats_bus import STREAMS
from faults.plan import Plan
from faults.process import write_plan
from faults.stage import KILLED, Stage
from toolorchestra.bus.streams import make_streams
from toolorchestra.local.nats_server import NatsServer
from toolorchestra.process import Child, tail

EXPLAIN_SECONDS = 5.0


class NatsStage(Stage):
    """See `Stage`."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        super().__init__(plan, folder)
        self._server = NatsServer(directory=folder / "nats", sync_always=False)
        self._workers: dict[int, Child] = {}
        self._begun = 0
        self._controller: Child | None = None

    async def _start_bus(self) -> str:
        await self._server.start()
        client = await nats.connect(self._server.url)
        await make_streams(client.jetstream(), uid=f"f{self.plan.seed}", settings=STREAMS)
        await client.close()
        write_plan(self.folder, self.plan)
        return self._server.url

    def _child(self, role: str, *arguments: object) -> Child:
        argv = [sys.executable, "-m", "faults.process", str(self.folder), role, *map(str, arguments)]
        child = Child(name=role, argv=argv, log=self.folder / "logs" / f"{role}-{arguments[0]}.log")
        child.start()
        return child

    async def _start_worker(self, i: int) -> None:
        self._workers[i] = self._child("worker", self._begun)
        self._begun += 1

    async def _kill_worker(self, i: int) -> None:
        self._workers[i].kill()
        await self._workers[i].wait()

    async def _life(self, number: int, *, doom: str) -> Ended:
        child = self._controller = self._child("controller", number, doom, *(e.url for e in self.engines))
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
