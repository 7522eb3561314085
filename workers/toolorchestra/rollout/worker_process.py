"""A worker as a process: its parts put together, and signals.

Invariant: SIGTERM or SIGINT stops leasing and lets episodes finish within the grace; a second one ends the process now,
and redelivery tells the controller of its episodes.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from toolorchestra.bus.protocol import RolloutBus
from toolorchestra.experts.client import ExpertClient
from toolorchestra.experts.endpoint import Endpoint
from toolorchestra.policy.engine import VLLMEngine
from toolorchestra.policy.pool import EnginePool
from toolorchestra.policy.renderer import Renderer
from toolorchestra.rollout.episode import Host
from toolorchestra.rollout.heartbeat import Heartbeat
from toolorchestra.rollout.routing import follow_routing
from toolorchestra.rollout.worker import Worker, WorkerSettings
from toolorchestra.sandbox.sandbox import SandboxError
from toolorchestra.tasks.judge import Judge

_KEEPALIVE_SECONDS = 60.0
"""Well below vLLM's own (VLLM_HTTP_TIMEOUT_KEEP_ALIVE=600): the client closes idle connections, never the server."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineWaits:
    """Seconds."""

    generation_seconds: float = 600.0
    routable_seconds: float = 300.0
    """How long a generation waits for an engine to be routable: longer than a restart of vLLM."""


async def serve(
    bus: RolloutBus,
    *,
    name: str,
    endpoints: Sequence[Endpoint],
    model: Path | None,
    settings: WorkerSettings,
    waits: EngineWaits | None = None,
    heartbeat: Heartbeat | None = None,
) -> int:
    """Work until a signal; the number of episodes finished. `model` None: baselines only. Closes the bus.

    `heartbeat`, where given, ends this process should its event loop stand still.
    """
    waits = waits or EngineWaits()
    # Reading a tokenizer takes a second; nothing else runs on the loop yet.
    renderer = Renderer.load(model) if model is not None else None
    judge = Judge()
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS)
    async with aiohttp.ClientSession(connector=connector) as session, ExpertClient(endpoints) as experts:
        engines = EnginePool(
            connect=lambda url: VLLMEngine(url, session=session, timeout_seconds=waits.generation_seconds),
            wait_seconds=waits.routable_seconds,
        )
        host = Host(experts=experts, grade=judge, engine=engines, renderer=renderer, worker=name)
        worker = Worker(bus=bus, host=host, settings=settings, beat=heartbeat.beat if heartbeat else None)
        following = asyncio.create_task(follow_routing(bus, pool=engines))
        release = stop_on_signals(worker.stop)
        try:
            await _say_what_protects(judge)
            if heartbeat is not None:
                heartbeat.begin()
            await worker.run()
        finally:
            release()
            following.cancel()
            await judge.close()
            await bus.close()
            if heartbeat is not None:
                heartbeat.end()
    return worker.finished


async def _say_what_protects(judge: Judge) -> None:
    """Once, at the start. A worker without a sandbox still plays: what needs one ends as a failure of the grader."""
    try:
        found = await judge.start()
    except SandboxError as error:
        _log.error("no sandbox: tasks whose grader needs one cannot be graded, and nothing else grades them: %s", error)
        return
    for grader, protections in found.items():
        if protections.weak:
            _log.warning("%s grades in a subprocess that nothing but its limits holds; %s", grader, protections)
        else:
            _log.info("%s grades in a sandbox; %s", grader, protections)


def stop_on_signals(stop: Callable[[], None]) -> Callable[[], None]:
    """Call `stop` on the first SIGTERM or SIGINT; the second gets the default action. Returns what undoes it."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def release() -> None:
        for each in signals:
            loop.remove_signal_handler(each)

    def first() -> None:
        release()
        _log.info("told to stop: leasing nothing more, finishing what runs")
        stop()

    for each in signals:
        loop.add_signal_handler(each, first)
    return release
