"""The training's engines as the controller sees them: started once, loaded with every version, published to workers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import ray

from toolorchestra.train.driver_config import ENGINE_ROLE
from toolorchestra.train.engine_actor import EngineActor, EngineStatus
from toolorchestra.train.engine_args import EngineConfig
from toolorchestra.train.weights import Snapshot

WATCH_SECONDS = 30.0
KEY = "engines"
"""Key of the routing state in the training's bucket: `{"engines": [{url, version, routable}], "paused": bool}`."""


def engine_actors(
    *, count: int, config: EngineConfig, logs: Path, cpus: float = 1.0, gpus: float = 0.0, by_role: bool = False
) -> list[Any]:
    """The detached actors of this training's namespace: found if an earlier incarnation left them, else made.

    `by_role`: on the cluster's nodes for engines, each listening on its node's address.
    """
    remote = ray.remote(EngineActor)
    actors = []
    for i in range(count):
        name = f"engine-{i}"
        options = remote.options(
            name=name,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_concurrency=8,
            num_cpus=cpus,
            num_gpus=gpus,
            resources={ENGINE_ROLE: 1} if by_role else None,
        )
        actors.append(options.remote(name=name, config=config, log=logs / f"{name}.log", on_node=by_role))
    return actors


class Engines:
    """`on_change` hears of every new status; `put` writes the routing state for the workers."""

    def __init__(
        self,
        actors: list[Any],
        *,
        put: Callable[[str, bytes], Awaitable[None]],
        on_change: Callable[[EngineStatus], None],
    ) -> None:
        self._actors = actors
        self._put, self._on_change = put, on_change
        self.statuses: list[EngineStatus] = [EngineStatus(f"engine-{i}") for i in range(len(actors))]
        self._ready = asyncio.Condition()
        self._watchers: list[asyncio.Task[None]] = []
        self._paused = False

    async def start(self) -> None:
        """Watch every engine from now on."""
        self._watchers = [asyncio.create_task(self._watch(i)) for i in range(len(self._actors))]

    async def load(self, snapshot: Snapshot, *, adopt: bool = False) -> None:
        """Bring the version to all engines; returns when at least one serves it (the others stay unrouted)."""
        self._paused = True
        await self._publish()
        method = "adopt" if adopt else "load"
        loads = [getattr(actor, method).remote(snapshot) for actor in self._actors]
        statuses = await asyncio.gather(*loads)
        self._paused = False
        for i, status in enumerate(statuses):
            await self._seen(i, status)
        await self._publish()  # also where a watcher saw the new status first: the pause ends here
        async with self._ready:
            await self._ready.wait_for(lambda: any(s.version == snapshot.version for s in self.statuses))

    async def stop(self) -> None:
        """End the engines and their actors."""
        for task in self._watchers:
            task.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        await asyncio.gather(*(actor.stop.remote() for actor in self._actors), return_exceptions=True)
        for actor in self._actors:
            ray.kill(actor)

    async def _watch(self, i: int) -> None:
        while True:
            try:
                status = await self._actors[i].wait_status.remote(self.statuses[i], WATCH_SECONDS)
            except ray.exceptions.RayActorError:
                # Ray restarts the actor (max_restarts=-1) and with it the engine.
                status = EngineStatus(f"engine-{i}", state="restarting", last_error="its actor died")
                await asyncio.sleep(1.0)
            await self._seen(i, status)

    async def _seen(self, i: int, status: EngineStatus) -> None:
        if status == self.statuses[i]:
            return
        self.statuses[i] = status
        self._on_change(status)
        await self._publish()
        async with self._ready:
            self._ready.notify_all()

    async def _publish(self) -> None:
        engines = [{"url": s.url, "version": s.version, "routable": s.routable} for s in self.statuses if s.url]
        await self._put(KEY, json.dumps({"engines": engines, "paused": self._paused}).encode())
