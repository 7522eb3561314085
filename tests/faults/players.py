"""A rollout worker put together as `rollout/worker_process.py: serve` does it, with short waits and the byte
tokenizer."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import replace

import aiohttp

from faults.buses import FaultyBus
from faults.life import Life
from faults.plan import Plan
from faults.tally import Tally
from faults.world import WORKERS
from toolorchestra.api.load import load
from toolorchestra.bus.protocol import RolloutBus
from toolorchestra.contract.driver_config import DriverConfig
from toolorchestra.experts.breaker import BreakerPolicy
from toolorchestra.experts.client import ExpertClient, RetryPolicy
from toolorchestra.experts.endpoint import Endpoint
from toolorchestra.policy.engine import VLLMEngine
from toolorchestra.policy.pool import EnginePool
from toolorchestra.policy.renderer import Renderer
from toolorchestra.rollout.episode import Host
from toolorchestra.rollout.pools import pool_file
from toolorchestra.rollout.routing import follow_routing
from toolorchestra.rollout.worker import Worker, WorkerSettings
from toolorchestra.tasks.grader import Grade, grade
from toolorchestra.tasks.task import Task

PATIENCE_SECONDS = 2.0
"""Of a client with an expert: the provider's hung replies take longer."""
SETTINGS = WorkerSettings(concurrency=24, heartbeat_seconds=0.7, lease_expiry_seconds=0.5, grace_seconds=2.0)


def endpoints_of(config: DriverConfig) -> Sequence[Endpoint]:
    """The experts as the pool file names them, with a shorter time-out."""
    bundle = load([str(path) for path in config.resources])
    pools = bundle.experts(bundle.trainings[0].spec.tools)
    entries = pool_file(pools, workers=WORKERS).pools
    return [replace(entry.endpoint(environment={}), timeout_seconds=PATIENCE_SECONDS) for entry in entries]


async def _grade(task: Task, answer: str | None) -> Grade:
    """Here every task compares two texts: no sandbox is needed for it."""
    return grade(task, answer)


async def play(
    inner: RolloutBus,
    *,
    life: Life,
    config: DriverConfig,
    name: str,
    renderer: Renderer,
    plan: Plan,
    rng: random.Random,
    seen: Tally,
    shared: bool,
) -> None:
    """Work until the life ends."""
    bus = FaultyBus(inner, life=life, rates=plan.messages, rng=rng, seen=seen, shared=shared)
    connector = aiohttp.TCPConnector(limit=0)
    retry = RetryPolicy(attempts=4, base_seconds=0.02, cap_seconds=0.2, patience_seconds=2.0)
    breaker = BreakerPolicy(failures=5, open_seconds=0.1, max_open_seconds=0.5)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        ExpertClient(endpoints_of(config), retry=retry, breaker=breaker, rng=rng) as experts,
    ):
        engines = EnginePool(
            connect=lambda url: VLLMEngine(url, session=session, timeout_seconds=8.0 * plan.slower),
            wait_seconds=6.0 * plan.slower,
        )
        host = Host(experts=experts, grade=_grade, engine=engines, renderer=renderer, worker=name)
        worker = Worker(bus=bus, host=host, settings=SETTINGS)
        following = asyncio.create_task(follow_routing(bus, pool=engines))
        try:
            await worker.run()
        finally:
            following.cancel()
            await bus.close()
