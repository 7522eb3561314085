"""Where a combination is played: provider and engines in this process, and by the bus either everything else too, or
workers, controllers and the nats-server as processes."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from pathlib import Path

from faults.controller import Ended
from faults.engine import ScriptedEngine
from faults.life import POINTS
from faults.plan import Plan
from faults.provider import Provider
from faults.tally import Tally
from faults.vllm_engine import RealEngine
from faults.world import ENGINES, POOLS, WORKERS, make_world, raise_cap
from toolorchestra.contract.driver_config import DriverConfig

KILLED = Ended("killed")


class Stage(ABC):
    """One combination's world. `start`, then one `life` after the other."""

    config: DriverConfig

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan, self.folder = plan, folder
        self.rng = plan.rng("chaos")
        self.provider = Provider(rates=plan.replies, rng=plan.rng("provider"), cap=plan.caps[0])
        self.tally = Tally(folder / "tally")
        self.model = folder
        self.engines: list[ScriptedEngine | RealEngine] = []
        self.lives = 0

    def _engine(self, i: int) -> ScriptedEngine | RealEngine:
        name = f"engine-{i}"
        if not self.plan.real:
            return ScriptedEngine(name, rng=self.plan.rng("engine", i))
        log = self.folder / "logs" / f"{name}.log"
        return RealEngine(name, model=self.model, log=log, clock=self._played if i == 0 else lambda: 0)

    def _played(self) -> int:
        return self.tally.counts().get("played", 0)

    @property
    def clock(self) -> int:
        """Generations so far, or with real engines episodes: what chaos is timed by."""
        return sum(engine.generations for engine in self.engines)

    async def start(self) -> None:
        await self.provider.start()
        if self.plan.real:
            self.model = await asyncio.to_thread(_taught, self.folder / "policy", self.plan)
        self.engines = [self._engine(i) for i in range(ENGINES)]
        for engine in self.engines:
            await engine.start()
        nats_url = await self._start_bus()
        self.config = make_world(
            self.folder, self.plan, experts_url=self.provider.url, nats_url=nats_url, model=self.model
        )
        for i in range(WORKERS):
            await self._start_worker(i)

    async def stop(self) -> None:
        await self._stop_rest()
        for engine in self.engines:
            await engine.stop()
        await self.provider.stop()
        self.tally.close()

    async def life(self) -> Ended:
        """The next controller's."""
        self.lives += 1
        return await self._life(self.lives - 1, doom=self.rng.choice(POINTS))

    def raise_cap(self) -> None:
        """A person raises the cap; the provider's bill is held against the new one."""
        self.provider.bill.cap = self.plan.caps[1]
        raise_cap(self.config, self.plan.caps[1])

    async def befall(self, kind: str) -> None:
        """Let it happen now."""
        match kind:
            case "worker":
                i = self.rng.randrange(WORKERS)
                await self._kill_worker(i)
                await self._start_worker(i)
            case "controller":
                self._kill_controller()
            case "resumes":
                self._stop_controller()
            case "engine":
                self.rng.choice(self.engines).kill_process()
            case "actor":
                self.rng.choice(self.engines).kill_actor()
            case "nats":
                await self._kill_nats()
            case "outage":
                await self.provider.outage(self.rng.choice(list(POOLS)), seconds=self.rng.uniform(0.2, 1.5))
            case _:
                raise AssertionError(kind)

    # ── by bus ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    async def _start_bus(self) -> str: ...

    @abstractmethod
    async def _start_worker(self, i: int) -> None: ...

    @abstractmethod
    async def _kill_worker(self, i: int) -> None: ...

    @abstractmethod
    async def _life(self, number: int, *, doom: str) -> Ended:
        """Play a controller; KILLED where it was."""

    @abstractmethod
    def _kill_controller(self) -> None:
        """At the next point it is doomed for."""

    @abstractmethod
    def _stop_controller(self) -> None:
        """As Ctrl-C does: it ends between two steps."""

    @abstractmethod
    async def _kill_nats(self) -> None: ...

    @abstractmethod
    async def _stop_rest(self) -> None: ...

    @abstractmethod
    async def explain(self) -> str:
        """What everybody waits for, where nothing moves."""


def _taught(folder: Path, plan: Plan) -> Path:
    from faults.policy import taught  # torch: seconds, and only real engines need it

    return taught(folder, plan)


def stack_of(task: asyncio.Task[object]) -> str:
    """`name: file:line < file:line …` of a waiting task."""
    frames = task.get_stack(limit=1)
    where = " < ".join(f"{Path(f.f_code.co_filename).name}:{f.f_lineno} {f.f_code.co_name}" for f in frames)
    return f"{task.get_coro().__qualname__}: {where}"  # type: ignore[union-attr]


def fresh(rng: random.Random) -> random.Random:
    """A stream that follows from another."""
    return random.Random(rng.getrandbits(64))
