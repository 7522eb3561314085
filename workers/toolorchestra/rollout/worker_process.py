"""A worker as a process: builds its parts and handles signals.

Invariant: the first SIGTERM or SIGINT stops leasing and lets episodes finish within the grace time. A second signal
ends the process at once; then redelivery tells the controller about its episodes.
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
"""Well below vLLM's own (VLLM_HTTP_TIMEOUT_KEEP_ALIVE=600): so the client, not the server, closes idle connections."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineWaits:
    """Time limits for engines, in seconds."""

    generation_seconds: float = 600.0
    routable_seconds: float = 300.0
    """How long a generation waits for an engine that may be asked: longer than a restart of vLLM."""


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
    """Work until a signal. Return the number of finished episodes. `model` None: baselines only. Closes the bus.

    `heartbeat`, if given, ends this process when its event loop hangs.
    """
    waits = waits or EngineWaits()
    # Reading a tokenizer takes a second, but nothing else runs on the loop yet.
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
            await _log_protections(judge)
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


async def _log_protections(judge: Judge) -> None:
    """Log the sandbox's protections once, at the start. A worker without a sandbox still plays; tasks that need one
    end as a grader failure."""
    try:
        found = await judge.start()
    except SandboxError as error:
        _log.error("no sandbox: tasks whose grader needs one cannot be graded: %s", error)
        return
    for grader, protections in found.items():
        if protections.weak:
            _log.warning("%s grades in a subprocess with resource limits but no sandbox; %s", grader, protections)
        else:
            _log.info("%s grades in a sandbox; %s", grader, protections)


def stop_on_signals(stop: Callable[[], None]) -> Callable[[], None]:
    """Call `stop` on the first SIGTERM or SIGINT; the second has the default action. Return a function to undo this."""
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)

    def release() -> None:
        for each in signals:
            loop.remove_signal_handler(each)

    def first() -> None:
        release()
        _log.info("told to stop: no new leases; running episodes may finish")
        stop()

    for each in signals:
        loop.add_signal_handler(each, first)
    return release
