"""A controller with everything real but engines, experts and trainers, in one process."""

from __future__ import annotations

import asyncio
import errno
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from support.episode_world import RENDERER, FakeExperts, answer, host_of
from support.train_samples import fresh_places
from toolorchestra.bus.memory import MemoryBus
from toolorchestra.controller.assemble import SampleFilters
from toolorchestra.controller.controller import Controller, ControllerConfig
from toolorchestra.controller.deferral import Deferrals
from toolorchestra.controller.instances import Instances
from toolorchestra.controller.monitoring.episode_spans import EpisodeSpans
from toolorchestra.controller.rewarding import Rewarding
from toolorchestra.controller.wire import BusWire
from toolorchestra.ledger.history import account, read_history
from toolorchestra.ledger.journal import Journal, read_frames
from toolorchestra.ledger.journalled import JournalledLedger
from toolorchestra.ledger.ledger import LedgerConfig
from toolorchestra.policy.fake import FakeEngine
from toolorchestra.rewards.registry import RewardConfig
from toolorchestra.rollout.order import EpisodeLimits
from toolorchestra.rollout.worker import Worker, WorkerSettings
from toolorchestra.runs.run_dir import RunDir
from toolorchestra.tasks.reasoning_gym import ReasoningGymSource
from toolorchestra.tasks.suite import Suite, WeightedSource
from toolorchestra.tools.catalog import Catalog, ExpertTool
from toolorchestra.tools.sampler import ViewSampler
from toolorchestra.tools.view import Price
from toolorchestra.trainer.batch import Mismatch, NonFiniteStep, StepConfig, StepMetrics, TrainSample
from toolorchestra.trainer.schedule import Schedule
from toolorchestra.weights.checkpoint import Checkpoint
from toolorchestra.weights.snapshot import NoRoom, Snapshot

POOLS = ("pool-cheap", "pool-dear")


class Hours:
    """Unix seconds that a test can put forward."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return time.time() + self.now


class CountingTrainers:
    """Trainers that remember what they were given."""

    def __init__(self) -> None:
        self.batches: list[list[TrainSample]] = []
        self.broken = 0
        """Steps from now on that will not be finite."""
        self.full: Path | None = None
        """A folder on a file system without room."""

    async def step(self, samples: Sequence[TrainSample], config: StepConfig) -> StepMetrics:
        if self.broken:
            self.broken -= 1
            raise NonFiniteStep("loss nan, gradient norm inf: the step was not applied")
        self.batches.append(list(samples))
        zeros = dict.fromkeys(("loss", "grad_norm", "entropy", "ratio_mean", "ratio_max", "clip_fraction"), 0.0)
        tokens = sum(len(s.token_ids) for s in samples)
        fresh = sum(len(fresh_places(sample)) for sample in samples)
        return StepMetrics(
            **zeros,
            masked_fraction=0.0,
            approx_kl=0.0,
            reference_kl=None,
            tokens=tokens,
            trained_tokens=1,
            micro_batches=1,
            mismatch=Mismatch(k3=0.002, rms=0.03, tokens=fresh) if fresh else None,
        )

    async def snapshot(self, folder: Path, *, version: str) -> Snapshot:
        if folder.parent == self.full:
            raise NoRoom(errno.ENOSPC, "no room for a snapshot", str(self.full))
        await asyncio.to_thread(folder.mkdir, parents=True)
        return Snapshot(path=str(folder), version=version, digest="")

    async def save(self, step: int, job: dict[str, Any]) -> Checkpoint:
        json.dumps(job)
        return Checkpoint(Path(f"step-{step}"), step, job, digest="")

    async def export(self, folder: Path) -> None: ...


class SwitchingEngine:
    """The engine side: a fake that serves the version it was given last."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine

    async def load(self, snapshot: Snapshot, *, adopt: bool = False) -> None:
        self.engine.version = snapshot.version


class Scene:
    """A controller with its world. `start` runs a worker beside it."""

    def __init__(
        self,
        folder: Path,
        *,
        reply: Callable[[str], str],
        experts: FakeExperts | None = None,
        steps: int = 3,
        staleness: int = 0,
        cap: Decimal | None = None,
        filters: SampleFilters | None = None,
        when_short: str = "Shrink",
        on_stale: str = "Wait",
        dispatch_timeout: float = 60.0,
        config: RewardConfig | None = None,
        bus: MemoryBus | None = None,
        snapshots: Path | None = None,
    ) -> None:
        self.folder = folder
        self.bus = bus or MemoryBus(ack_wait=5.0)
        self.experts = experts or FakeExperts()
        self.engine = FakeEngine(RENDERER, reply)
        self.trainers = CountingTrainers()
        self.deferrals = Deferrals()
        ledger = LedgerConfig(2, 4, staleness, on_stale, when_short)  # type: ignore[arg-type]
        journal = Journal(folder / "journal" / "journal.bin")
        self.journalled, self.recovery = JournalledLedger.open(
            config=ledger,
            uid="uid",
            journal=journal,
            history=read_history(read_frames(journal.path)),
            step=0,
            cap=cap,
            allowance=Decimal("0.5"),
        )
        self.journalled.ledger.steps = steps
        self.steps = steps
        self.controller = Controller(
            config=ControllerConfig(
                steps=steps,
                step=StepConfig(),
                schedule=Schedule(peak=1e-3, steps=steps, decay="Linear"),
                checkpoint_every=2,
                dispatch_timeout=dispatch_timeout,
            ),
            run=RunDir(folder),
            instances=a_world(),
            journalled=self.journalled,
            rewarding=Rewarding(
                config or RewardConfig(combiner="GDPO", weights={"outcome": 1.0, "cost": 0.3}),
                filters or SampleFilters(),
            ),
            wire=BusWire(self.bus),
            trainers=self.trainers,
            engines=SwitchingEngine(self.engine),
            deferrals=self.deferrals,
            spans=EpisodeSpans("test"),
            snapshots=snapshots,
        )

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Controller]:
        host = host_of(engine=self.engine, experts=self.experts)
        worker = Worker(bus=self.bus, host=host, settings=WorkerSettings(concurrency=16, lease_expiry_seconds=0.2))
        tasks = [asyncio.create_task(worker.run()), asyncio.create_task(self._read())]
        try:
            yield self.controller
        finally:
            worker.stop()
            await self.bus.close()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self) -> None:
        async for delivery in self.controller.wire.deliveries():
            await self.controller.take([delivery])

    async def train(self) -> list[dict[str, Any]]:
        return [await asyncio.wait_for(self.controller.step(), 30) for _ in range(self.steps)]

    def account(self) -> Any:
        self.journalled.flush()
        return account(read_history(read_frames(self.journalled.journal.path)))


def a_world() -> Instances:
    source = ReasoningGymSource(name="sums", datasets=["chain_sum"], size=40, seed=1)
    suite = Suite(sources=[WeightedSource(source)], held_out_fraction=Decimal("0.2"), seed=0)
    prices = (Price(output_usd_per_million_tokens=Decimal(1000)), Price(output_usd_per_million_tokens=Decimal(9000)))
    tools = [ExpertTool(n, f"{n} does sums", p, 1000) for n, p in zip(POOLS, prices, strict=True)]
    sampler = ViewSampler(Catalog(tools), policy_price=Price(), aliases=False)
    limits = EpisodeLimits(max_turns=1, max_prompt_tokens=6000, max_response_tokens=400, timeout_seconds=20.0)
    return Instances(suite, sampler, limits, seed=3)


def either(turn: list[int]) -> Callable[[str], str]:
    """A policy that asks its two experts in turn."""

    def reply(prompt: str) -> str:
        turn.append(1)
        return answer(POOLS[len(turn) % 2])

    return reply
