"""The controller's view of the training's engines: started once, updated to every version, published to workers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup

from toolorchestra.contract.ray import ENGINE_ROLE
from toolorchestra.engines.actor import EngineActor, EngineStatus
from toolorchestra.engines.arguments import EngineConfig
from toolorchestra.gpus.rooms import at
from toolorchestra.weights.snapshot import Snapshot

WATCH_SECONDS = 30.0
RETRY_SECONDS = 1.0
"""Wait before a lost actor is asked again."""
STOP_SECONDS = 30.0
KEY = "engines"
"""Key of the routing state in the training's bucket: `{"engines": [{url, version, routable}], "paused": bool}`."""


def engine_actor(
    number: int,
    *,
    config: EngineConfig,
    logs: Path,
    cpus: float = 1.0,
    gpus: float = 0.0,
    by_role: bool = False,
    places: PlacementGroup | None = None,
) -> Any:
    """Return a detached actor of this training's namespace: the one of an earlier incarnation, or a new one.

    `by_role`: on a cluster node for engines, listening on that node's address. If the node is lost, Ray starts the
    actor again on another node, as soon as there is one. `places`: it shares the GPU of the bundle with its number
    (rooms.py).
    """
    name = f"engine-{number}"
    options = ray.remote(EngineActor).options(
        name=name,
        lifetime="detached",
        get_if_exists=True,
        max_restarts=-1,
        max_concurrency=8,
        num_cpus=cpus,
        num_gpus=gpus,
        resources={ENGINE_ROLE: 1} if by_role else None,
        **({"scheduling_strategy": at(places, number)} if places is not None else {}),
    )
    return options.remote(name=name, config=config, log=logs / f"{name}.log", on_node=by_role)


class Engines:
    """The engines of a training.

    `actor(i)` finds or makes the actor of engine i. `on_change` gets every new status. `on_wait` gets the reason why no
    engine serves the newest weights, and an empty text when one does. `put` writes the routing state for the workers.

    Invariants: an engine is routable only with the newest weights. The loss of an actor, or of its node, affects only
    that engine. However a load ends, the pause of the workers ends with it. The state written last is the newest.
    """

    def __init__(
        self,
        count: int,
        *,
        actor: Callable[[int], Any],
        put: Callable[[str, bytes], Awaitable[None]],
        on_change: Callable[[EngineStatus], None],
        on_wait: Callable[[str], None],
    ) -> None:
        self._make = actor
        self._actors = [actor(i) for i in range(count)]
        self._put, self._on_change, self._on_wait = put, on_change, on_wait
        self.statuses: list[EngineStatus] = [EngineStatus(f"engine-{i}") for i in range(count)]
        self._ready = asyncio.Condition()
        self._loading = [asyncio.Lock() for _ in range(count)]
        self._publishing = asyncio.Lock()
        self._paused = False
        self._reported = ""
        """The last reported reason why no engine serves."""
        self._newest: Snapshot | None = None

    async def watch(self) -> None:
        """Watch every engine until cancelled."""
        await asyncio.gather(*(self._watch(i) for i in range(len(self._actors))))

    async def load(self, snapshot: Snapshot, *, adopt: bool = False) -> None:
        """Load the version into all available engines. Return when at least one serves it.

        The other engines stay unrouted. If no engine is available, wait for the first one that comes back.
        """
        self._newest, self._paused = snapshot, True
        try:
            await self._publish()
            # An engine that is down gets the version from its watcher later: a call now could wait until then.
            up = [i for i, status in enumerate(self.statuses) if status.state == "ready"]
            await asyncio.gather(*(self._load_newest(i, "adopt" if adopt else "load") for i in up))
        finally:
            self._paused = False
            await self._publish()
        async with self._ready:
            while not self._serving():
                self._report_waiting()
                await self._ready.wait()
        self._reported = ""
        self._on_wait("")

    def _report_waiting(self) -> None:
        """Report a change of the reason why no engine serves. The pause of a load is not reported."""
        if self._newest is None or self._paused:
            return
        why = "" if self._serving() else self._why()
        if why != self._reported:
            self._reported = why
            self._on_wait(why)

    def _serving(self) -> bool:
        return any(self._routable(status) for status in self.statuses)

    def _routable(self, status: EngineStatus) -> bool:
        return self._newest is not None and status.routable and status.version == self._newest.version

    def _why(self) -> str:
        version = self._newest.version if self._newest else "any"
        states = "; ".join(
            f"{s.name} is {s.state} {(s.last_error.splitlines() or [''])[0]}".strip() for s in self.statuses
        )
        return f"waiting for an engine with version {version}: {states}"

    async def _load_newest(self, i: int, method: str) -> None:
        """Load the newest version into one engine, unless it was told already."""
        async with self._loading[i]:
            if self._newest is None or self.statuses[i].wanted == self._newest.version:
                return
            try:
                status = await getattr(self._actors[i], method).remote(self._newest)
            except ray.exceptions.RayError as error:
                status = self._lost_status(i, error)
            await self._update_status(i, status)

    def _lost_status(self, i: int, error: ray.exceptions.RayError) -> EngineStatus:
        words = str(error).strip().splitlines()
        why = f"its actor does not answer ({type(error).__name__}: {words[-1] if words else 'no more is known'})"
        return EngineStatus(f"engine-{i}", state="restarting", restarts=self.statuses[i].restarts, last_error=why)

    async def stop(self) -> None:
        """End the engines and their actors."""
        stops = [asyncio.ensure_future(actor.stop.remote()) for actor in self._actors]
        if stops:
            await asyncio.wait(stops, timeout=STOP_SECONDS)  # an actor on a lost node may never answer
        for actor in self._actors:
            ray.kill(actor)

    async def _watch(self, i: int) -> None:
        while True:
            try:
                status = await self._actors[i].wait_status.remote(self.statuses[i], WATCH_SECONDS)
            except ray.exceptions.RayError as error:
                await self._update_status(i, self._lost_status(i, error))
                await asyncio.sleep(RETRY_SECONDS)
                if isinstance(error, ray.exceptions.ActorDiedError):
                    # Ray has restarted the actor (max_restarts=-1), or given up; then its name is free for a new one.
                    self._actors[i] = await asyncio.to_thread(self._make, i)
                continue
            await self._update_status(i, status)
            await self._load_newest(i, "adopt")

    async def _update_status(self, i: int, status: EngineStatus) -> None:
        if status == self.statuses[i]:
            return
        self.statuses[i] = status
        self._on_change(status)
        self._report_waiting()
        await self._publish()
        async with self._ready:
            self._ready.notify_all()

    async def _publish(self) -> None:
        """Write the current routing state, one write at a time. A write that is retried (its acknowledgement was lost)
        must not overwrite a newer one."""
        async with self._publishing:
            await self._write()

    async def _write(self) -> None:
        engines = [{"url": s.url, "version": s.version, "routable": self._routable(s)} for s in self.statuses if s.url]
        await self._put(KEY, json.dumps({"engines": engines, "paused": self._paused}).encode())
