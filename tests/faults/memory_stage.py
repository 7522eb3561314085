"""Everything in one process and on one event loop, on the memory bus; deaths are emulated (life.py)."""

from __future__ import annotations

import asyncio
from pathlib import Path

from faults.controller import Ended, ScriptedJob, Surroundings, live
from faults.life import Life, know_lives
from faults.plan import Plan
from faults.players import play
from faults.snapshots import writer_of
from faults.stage import KILLED, Stage, fresh, stack_of
from faults.telling import tell
from faults.world import renderer_of
from toolorchestra.bus.memory import MemoryBus
from toolorchestra.bus.protocol import RolloutBus

ACK_WAIT = 2.5


class MemoryStage(Stage):
    """See `Stage`."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        super().__init__(plan, folder)
        know_lives()
        self._bus = MemoryBus(ack_wait=ACK_WAIT)
        self._workers: dict[int, Life] = {}
        self._controller: Life | None = None
        self._doom = ""
        self._job: ScriptedJob | None = None

    async def _start_bus(self) -> str:
        return ""

    async def _connect(self) -> RolloutBus:
        return self._bus

    async def _start_worker(self, i: int) -> None:
        life = self._workers[i] = Life()
        life.run(
            play(
                self._bus,
                life=life,
                config=self.config,
                name=f"worker-{i}",
                renderer=renderer_of(self.model),
                plan=self.plan,
                rng=fresh(self.rng),
                seen=self.tally,
                shared=True,
            )
        )

    async def _kill_worker(self, i: int) -> None:
        await self._workers[i].bury()

    async def _life(self, number: int, *, doom: str) -> Ended:
        life = self._controller = Life()
        self._doom = doom
        around = Surroundings(
            plan=self.plan,
            config=self.config,
            connect=self._connect,
            actors=[engine.url for engine in self.engines],
            number=number,
            tally=self.folder / "tally",
            shared_bus=True,
            snapshot=writer_of(self.model),
        )
        task = life.run(live(around, life=life, on_job=self._began))
        died = asyncio.create_task(life.died.wait())
        await asyncio.wait({task, died}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done() or life.dead:
            await life.bury(rng=self.rng)
            return KILLED
        died.cancel()
        ended = await task
        await life.bury(rng=self.rng)  # a driver leaves by os._exit: what it did not flush is lost too
        return ended

    def _began(self, job: ScriptedJob) -> None:
        self._job = job

    def _kill_controller(self) -> None:
        if self._controller is not None:
            self._controller.doom = self._doom

    def _stop_controller(self) -> None:
        if self._job is not None:
            self._job.stop()

    async def _kill_nats(self) -> None:
        raise AssertionError("there is none")

    async def _stop_rest(self) -> None:
        for life in self._workers.values():
            await life.bury()
        if self._controller is not None:
            await self._controller.bury()
        await self._bus.close()

    async def explain(self) -> str:
        tasks = list(self._controller.tasks) if self._controller is not None else []
        waiting = "\n".join(sorted(stack_of(task) for task in tasks if not task.done()))
        return f"{tell(self._job) if self._job else 'no job'}\n{await self._bus.depth()}\n{waiting}"
