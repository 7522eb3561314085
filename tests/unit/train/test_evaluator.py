"""An evaluation over the in-memory bus with a real worker: every task is in the file, scored or not."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "rollout"))

from episode_world import RENDERER, FakeExperts, answer, host_of
from test_controller import a_world

from toolorchestra.bus.memory import MemoryBus
from toolorchestra.evaluation.archive import evaluation_traces, lost_attempts
from toolorchestra.policy.engine import EngineLost
from toolorchestra.policy.fake import FakeEngine
from toolorchestra.rollout.worker import Worker, WorkerSettings
from toolorchestra.train.evaluator import Evaluated, Evaluator, Job
from toolorchestra.train.issues import MAX_ISSUES
from toolorchestra.train.journal import Kind, read_frames
from toolorchestra.train.settings import EvaluationSuite
from toolorchestra.train.wire import BusWire

TASKS = 5


class Flaky(FakeExperts):
    """Breaks the worker on the first task that it is asked, whoever asks again."""

    broken: str = ""

    async def ask(self, *, request, **fields):  # type: ignore[no-untyped-def]
        self.broken = self.broken or str(request.messages)
        if str(request.messages) == self.broken:
            raise RuntimeError("a bug of ours")
        return await super().ask(request=request, **fields)


@asynccontextmanager
async def evaluating(experts: FakeExperts, engine: FakeEngine) -> AsyncIterator[tuple[Evaluator, EvaluationSuite]]:
    bus, world = MemoryBus(max_deliver=1), a_world()
    wire = BusWire(bus)
    evaluator = Evaluator(wire=wire, world=world, uid="uid", incarnation=0)
    settings = WorkerSettings(concurrency=4, lease_expiry_seconds=0.2)
    worker = Worker(bus=bus, host=host_of(engine=engine, experts=experts), settings=settings)

    async def read() -> None:
        async for delivery in wire.deliveries():
            await evaluator.take(delivery)

    tasks = [asyncio.create_task(worker.run()), asyncio.create_task(read())]
    yield evaluator, EvaluationSuite("held-out", TASKS, world.suite, world.sampler)
    worker.stop()
    await bus.close()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_infrastructure_ended_every_time_is_recorded_as_unscored(tmp_path: Path) -> None:
    asked: list[str] = []

    def reply(prompt: str) -> str:
        asked.append(prompt)
        if prompt == asked[0]:
            raise EngineLost("no engine")
        return answer("pool-cheap")

    async with evaluating(FakeExperts(), FakeEngine(RENDERER, reply)) as (evaluator, suite):
        done = await asyncio.wait_for(evaluator.run(Job(suite, "policy", "policy"), into=tmp_path), 30)
    assert done == Evaluated(TASKS - 1, {"engine_lost": 1})
    assert str(done) == "4 tasks, 1 not scored (engine_lost 1)"
    assert asked.count(asked[0]) == MAX_ISSUES
    traces = evaluation_traces(tmp_path)["held-out"]["policy"]
    assert sorted(trace.components.outcome is None for trace in traces) == [False] * 4 + [True]
    frames = list(read_frames(tmp_path / "held-out" / "policy.traces"))
    assert [f.head["reason"] for f in frames if f.kind is Kind.UNSCORED] == ["engine_lost"]
    assert lost_attempts(tmp_path) == {}


async def test_what_ended_without_a_trace_is_counted_too(tmp_path: Path) -> None:
    async with evaluating(Flaky(actual_usd=Decimal(0)), FakeEngine(RENDERER, ())) as (evaluator, suite):
        job = Job(suite, "always:pool-cheap", "always:pool-cheap")
        done = await asyncio.wait_for(evaluator.run(job, into=tmp_path), 30)
    assert done.scored == TASKS - 1
    assert done.unscored == {"RuntimeError: a bug of ours": 1}
    assert lost_attempts(tmp_path) == {"held-out": {"always:pool-cheap": 1}}
    assert len(evaluation_traces(tmp_path)["held-out"]["always:pool-cheap"]) == TASKS - 1
