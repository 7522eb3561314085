"""The operator's own tasks: workers, resync, discovery, metrics. kopf's watches only fill their queue.

Invariants
- They start before kopf, and kopf's cleanup ends them: kopf cancels every task that was created in its loop after it.
- If one of them ends, the whole process ends: with `RESTART` if the served kinds changed, with 1 if a task failed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from toolorchestra.kube.kinds import Kind
from toolorchestra_operator.kubernetes.api_server import ApiServer
from toolorchestra_operator.kubernetes.backoff import Backoff
from toolorchestra_operator.kubernetes.discovery import Discovery, Served, words
from toolorchestra_operator.kubernetes.manifest import Key, Manifest, ParentKind, Ref
from toolorchestra_operator.messaging.streams import NatsStreams, StreamsPort
from toolorchestra_operator.planning.carry_out import carry_out
from toolorchestra_operator.planning.events import Events
from toolorchestra_operator.planning.plan import Emit, Plan
from toolorchestra_operator.runtime.health import health_pages
from toolorchestra_operator.runtime.http_server import HttpServer
from toolorchestra_operator.runtime.key_queue import KeyQueue
from toolorchestra_operator.runtime.liveness import Limits, Pulse, WatchHealth, complaints
from toolorchestra_operator.runtime.metrics import Meter
from toolorchestra_operator.runtime.parents import CHILDREN, GROUP, OPTIONAL, PARENTS
from toolorchestra_operator.runtime.pool_users import PoolUsers
from toolorchestra_operator.runtime.reconcile_loop import ReconcileLoop, Reconciler
from toolorchestra_operator.runtime.resync import Resync, Sweep
from toolorchestra_operator.runtime.settings import Settings

_log = logging.getLogger(__name__)

RESTART: Final = 75
"""Exit status that asks for a restart (EX_TEMPFAIL): kinds were added or removed."""


_CANCEL_SECONDS: Final = 1.0
_LISTING_SECONDS: Final = 15.0
"""Seconds after which the workers start even if a kind could not be listed (a right may be missing)."""


@dataclass(frozen=True)
class Machinery:
    """The parts that manage the kinds: their reconcilers, and the sweeps that remove what has lost its parent."""

    reconcilers: Mapping[ParentKind, Reconciler[Any]]
    sweeps: tuple[Sweep, ...] = ()
    streams: StreamsPort = field(default_factory=NatsStreams)
    """Creates and removes on NATS what plans name."""
    news: tuple[Callable[[Callable[[Key], None]], None], ...] = ()
    """Sources of changes that no watch reports; each receives the function to call with the key to reconcile."""
    close: tuple[Callable[[], Awaitable[None]], ...] = ()
    """Functions that close connections at the end."""


@dataclass(kw_only=True)
class OperatorProcess:
    """Everything in the process except kopf. `served`: the kinds that the API server had at the start."""

    settings: Settings
    api: ApiServer
    machinery: Machinery
    served: Served
    discovery: Discovery
    meter: Meter
    queue: KeyQueue = field(default_factory=KeyQueue)
    pool_users: PoolUsers = field(default_factory=PoolUsers)
    watch_health: WatchHealth = field(default_factory=WatchHealth)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Setting it ends kopf, and with it the process."""
    exit_status: int = 0
    _tasks: list[asyncio.Task[Any]] = field(default_factory=list[asyncio.Task[Any]])
    _pulses: list[Pulse] = field(default_factory=list[Pulse])

    def __post_init__(self) -> None:
        self._events = Events(self.api)
        settings = self.settings
        # One namespace never gets all workers, however long its reconciles take.
        self.queue.most = max(1, settings.workers - 1)
        for news in self.machinery.news:
            news(self.queue.add)
        self._metrics = HttpServer({"/metrics": self.meter.answer}, host=settings.host, port=settings.metrics_port)
        health = health_pages(complaints=self.complaints, degraded=self.degraded)
        self._health = HttpServer(health, host=settings.host, port=settings.health_port)

    async def start(self) -> None:
        """Start all tasks. OSError: the port of health or metrics is taken."""
        self.meter.queue(depth=lambda: self.queue.depth, oldest=lambda: self.queue.oldest)
        self.meter.watches(deaf=lambda: len(self.watch_health.deaf))
        await self._health.start()
        if self.settings.metrics_port:
            await self._metrics.start()
        namespaces = self.settings.watch_namespaces or ("",)
        self.watch_health.expect(
            kind.path(namespace=ns) for kind in (*self.parents, *self.children) for ns in namespaces
        )
        loop = self._loop()
        for number in range(self.settings.workers):
            self._pulses.append(Pulse(running=True))
            self._spawn(self._work(loop, self._pulses[-1]), f"worker {number}")
        self._spawn(self._resync().run(), "resync")
        self._spawn(self._restart_where_kinds_change(), "discovery")

    async def stop(self) -> None:
        """End all tasks. A worker's current reconcile is cut off; the next process repeats it."""
        # kopf waits at most five seconds for its own task, which waits for this event.
        self.stopping.set()
        await cancel(self._tasks)
        self._tasks.clear()
        for close in self.machinery.close:
            await close()
        await self._metrics.stop()
        await self._health.stop()

    @property
    def children(self) -> tuple[Kind, ...]:
        """The kinds of children that can be watched."""
        return tuple(kind for kind in CHILDREN if kind not in OPTIONAL or kind.key in self.served)

    @property
    def parents(self) -> tuple[Kind, ...]:
        """Our own kinds whose CRDs are installed; when another one is installed, the process restarts."""
        return tuple(kind for kind in PARENTS if kind.key in self.served)

    def complaints(self) -> tuple[str, ...]:
        """Return what is wrong with this process; empty: it is alive."""
        return complaints(
            now=time.monotonic(),
            workers=self._pulses,
            oldest_key=self.queue.oldest,
            silent=self.watch_health.silent,
            limits=Limits(stuck=self.settings.stuck_seconds, silence=self.settings.silence_seconds),
        )

    def degraded(self) -> tuple[str, ...]:
        """Return the watches that a restart does not repair, with the reason; empty: all are open."""
        return tuple(f"{watch}: {how}" for watch, how in self.watch_health.deaf.items())

    async def _work(self, loop: ReconcileLoop, pulse: Pulse) -> None:
        """Work once everything is listed: a parent is then reconciled once, not again for each of its children."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LISTING_SECONDS):
                await self.watch_health.all_open.wait()
        await loop.work(pulse)

    def _loop(self) -> ReconcileLoop:
        settings = self.settings
        return ReconcileLoop(
            queue=self.queue,
            reconcilers=self.machinery.reconcilers,
            find=self._find,
            carry_out=self._carry_out,
            backoff=Backoff(first=settings.backoff_seconds, cap=settings.resync_seconds),
            meter=self.meter,
            resync_seconds=settings.resync_seconds,
            pass_seconds=settings.pass_seconds,
        )

    def _resync(self) -> Resync:
        return Resync(
            api=self.api,
            queue=self.queue,
            meter=self.meter,
            namespaces=self.settings.watch_namespaces,
            interval=self.settings.resync_seconds,
            sweeps=self.machinery.sweeps,
        )

    async def _find(self, key: Key) -> Manifest | None:
        version = next(parent.version for parent in PARENTS if parent.name == key.kind)
        return await self.api.get(Ref(f"{GROUP}/{version}", key.kind, key.namespace, key.name))

    async def _carry_out(self, plan: Plan, *, parent: Manifest) -> None:
        async def emit(news: Emit) -> None:
            await self._events.post(news, about=parent)

        seen = {"uid": parent["metadata"]["uid"], "version": parent["metadata"]["resourceVersion"]}
        await carry_out(plan, parent=Ref.of(parent), api=self.api, streams=self.machinery.streams, emit=emit, **seen)

    async def _restart_where_kinds_change(self) -> None:
        now = await self.discovery.changed(self.served)
        _log.warning("%s: restarting", words(self.served, now))
        self.exit_status = RESTART

    def _spawn(self, work: Coroutine[Any, Any, Any], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)
        self._tasks.append(task)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            return
        if error := task.exception():
            _log.critical("%s failed: the process ends", task.get_name(), exc_info=error)
            self.exit_status = 1
        self.stopping.set()


async def cancel(tasks: Iterable[asyncio.Task[Any]], *, every: float = _CANCEL_SECONDS) -> None:
    """Cancel tasks repeatedly until they end: nats-py swallows a cancellation while it closes a connection."""
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=every)
