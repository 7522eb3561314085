"""The rollout worker: leases orders, plays up to `concurrency` episodes on one event loop, sends traces back.

Invariants:
- A lease is settled exactly once, after its result is stored: completed, deferred (an expert is unavailable or
  misconfigured), failed (a bug in the worker) or given back untouched (the worker was told to stop before anything was
  spent, or the training has no engine). A worker that crashes settles nothing: the order is delivered again.
- An order is played once. If it is delivered again, its first worker crashed and its bill is unknown. So it goes back
  to the controller, which counts its worst case and dispatches the episode again with a new reservation. An order that
  fails because of a bug is reported at once, with the reason.
- Heartbeats keep a lease alive while its episode runs, including grading and sending.
- After `stop`, the worker leases nothing more, lets episodes finish within the grace time, then gives the rest back.
  An episode that has spent money is completed as cancelled instead, so that the money is counted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from opentelemetry import metrics

from toolorchestra.bus.envelope import Envelope
from toolorchestra.bus.errors import BusError
from toolorchestra.bus.protocol import ABANDONED, UNREADABLE, UNTOUCHED, Lease, WorkerBus
from toolorchestra.rollout.codec import (
    ORDER_CONTENT,
    TRACE_CONTENT,
    CodecError,
    check_content,
    decode_order,
    encode_trace,
)
from toolorchestra.rollout.episode import Episode, Host
from toolorchestra.rollout.trace import Ending, Trace
from toolorchestra.telemetry import names
from toolorchestra.telemetry.metrics import (
    WORKER_EPISODES,
    WORKER_FORKS,
    WORKER_LOOP_LAG,
    WORKER_REDELIVERIES,
    WORKER_REJECTIONS,
    Measurement,
    Recorder,
)
from toolorchestra.telemetry.spans import agent_span

MAX_FETCH = 4
_HAND_BACK_SECONDS = 5.0

_log = logging.getLogger(__name__)
# Proxies of the OpenTelemetry API. They start to count when the process sets up an exporter; before that, they are
# cheap calls without effect.
_recorder = Recorder(metrics.get_meter(names.INSTRUMENTATION))


@dataclass(frozen=True)
class WorkerSettings:
    """Settings of a worker. All times are in seconds."""

    concurrency: int = 32
    heartbeat_seconds: float = 20.0
    lease_expiry_seconds: float = 5.0
    grace_seconds: float = 25.0
    """How long episodes may continue after `stop`. Stopping takes at most this time or `lease_expiry_seconds` (the
    longer one), plus the time to give leases back. Keep it below the supervisor's own limit (30 s on Kubernetes)."""
    lag_interval_seconds: float = 0.5


class Worker:
    """The worker of one process. `run` works until `stop`."""

    def __init__(
        self,
        *,
        bus: WorkerBus,
        host: Host,
        settings: WorkerSettings | None = None,
        encode: Callable[[Trace], bytes] = encode_trace,
        beat: Callable[[], None] | None = None,
    ) -> None:
        """`beat` is called from the event loop every `lag_interval_seconds`."""
        self._bus = bus
        self._host = host
        self._settings = settings or WorkerSettings()
        self._encode = encode
        self._beat_loop = beat or (lambda: None)
        self._stopping = asyncio.Event()
        self._stopped_at = time.monotonic()
        self._room = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self._playing: dict[asyncio.Task[None], Episode | None] = {}
        """Running tasks whose result is not being sent yet: only these can be given back. None: not begun yet."""
        self.finished = 0
        """Number of episodes whose result was stored."""
        self.loop_lag_seconds = 0.0

    def stop(self) -> None:
        """Lease nothing more. `run` returns when running episodes have finished or were given back. Idempotent."""
        if not self._stopping.is_set():
            self._stopped_at = time.monotonic()
        self._stopping.set()
        self._room.set()

    async def run(self) -> None:
        """Work until `stop`. BusGone if the training's streams were deleted: then there is nothing left to do."""
        lag = asyncio.create_task(self._watch_lag())
        try:
            await self._lease_until_stopped()
        finally:
            await self._wind_down()
            lag.cancel()

    async def _lease_until_stopped(self) -> None:
        """Lease until `stop`. The last pull is awaited, not cancelled: it could receive what is given back."""
        while not self._stopping.is_set():
            free = self._settings.concurrency - len(self._running)
            if free <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            expiry = self._settings.lease_expiry_seconds
            for lease in await self._bus.lease(max_n=min(MAX_FETCH, free), expiry=expiry):
                if self._stopping.is_set():
                    await self._give_back(lease)
                else:
                    self._start(lease)

    def _start(self, lease: Lease) -> None:
        task = asyncio.create_task(self._hold(lease))
        self._running.add(task)
        self._playing[task] = None
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._playing.pop(task, None)
        self._room.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a lease could not be settled; it will be delivered again: %r", error)

    async def _wind_down(self) -> None:
        """Let episodes finish within the grace time, then give the rest back."""
        left = self._stopped_at + self._settings.grace_seconds - time.monotonic()
        if self._running:
            await asyncio.wait(self._running, timeout=max(0.0, left))
        for task, episode in list(self._playing.items()):
            if episode is None:
                task.cancel()
            else:
                episode.cancel("the worker was told to stop")
        if self._running:
            await asyncio.wait(self._running, timeout=_HAND_BACK_SECONDS + 1.0)
        if self._running:
            _log.warning("%d leases could not be settled; they will be delivered again", len(self._running))

    async def _hold(self, lease: Lease) -> None:
        """Work on a lease while a heartbeat keeps it."""
        _recorder.write(partial(_leased, lease))
        heart = asyncio.create_task(self._beat(lease))
        try:
            envelope = lease.envelope
            with agent_span(
                dispatch=envelope.id, headers=envelope.headers, purpose=envelope.purpose, delivery=lease.delivery
            ):
                await self._work(lease)
        except asyncio.CancelledError:
            async with asyncio.timeout(_HAND_BACK_SECONDS):  # the broker may be gone too
                await self._give_back(lease)
            raise
        finally:
            heart.cancel()

    async def _beat(self, lease: Lease) -> None:
        while True:
            await asyncio.sleep(self._settings.heartbeat_seconds)
            try:
                await self._bus.heartbeat(lease)
            except BusError as error:
                _log.warning("no heartbeat for %s: %s", lease.envelope.id, error)

    async def _work(self, lease: Lease) -> None:
        if lease.delivery > 1:
            self._settling()
            await self._bus.defer(lease, self._result(lease, reason=ABANDONED))
            return
        try:
            check_content(lease.envelope.content, wanted=ORDER_CONTENT)
            order = decode_order(lease.envelope.body)
        except CodecError as error:
            _log.error("order %s cannot be read: %s", lease.envelope.id, error)
            self._settling()
            await self._bus.fail(lease, self._result(lease, reason=f"{UNREADABLE}: {error}"))
            return
        try:
            episode = Episode(order, host=self._host)
            self._began(episode)
            trace = await episode.run()
            body = self._encode(trace)
        except Exception as error:
            # A bug in the worker, not a fault of the policy. Its cost is unknown, because its state is.
            _log.exception("episode %s failed because of a bug in the worker", lease.envelope.id)
            self._settling()
            await self._bus.fail(lease, self._result(lease, reason=f"{type(error).__name__}: {error}"))
            return
        self._settling()
        if _unplayed(trace):
            _log.info("episode %s is given back unplayed: %s", lease.envelope.id, trace.detail)
            await self._give_back(lease)
            return
        if trace.ending.deferred:
            # The reason is only the pool's name. The controller asks that pool when to dispatch the episode again.
            await self._bus.defer(lease, self._result(lease, body=body, reason=trace.expert or ""))
        else:
            await self._bus.complete(lease, self._result(lease, body=body, reason=trace.detail))
        self.finished += 1
        _recorder.write(partial(_count, trace))

    async def _give_back(self, lease: Lease) -> None:
        """Give back an order on which nothing was spent here, so that the controller dispatches the episode again.

        Otherwise a second delivery would mean that it was played. If another worker may have played the order, it is
        never called untouched."""
        if lease.delivery == 1:
            await self._bus.defer(lease, self._result(lease, reason=UNTOUCHED))
        else:
            await self._bus.hand_back(lease)

    def _began(self, episode: Episode) -> None:
        if (task := asyncio.current_task()) in self._playing:
            self._playing[task] = episode

    def _settling(self) -> None:
        if (task := asyncio.current_task()) is not None:
            self._playing.pop(task, None)

    def _result(self, lease: Lease, *, body: bytes = b"", reason: str = "") -> Envelope:
        content = TRACE_CONTENT if body else ""
        return Envelope(id=lease.envelope.id, purpose=lease.envelope.purpose, body=body, content=content, reason=reason)

    async def _watch_lag(self) -> None:
        interval = self._settings.lag_interval_seconds
        while True:
            due = time.monotonic() + interval
            await asyncio.sleep(interval)
            self.loop_lag_seconds = max(0.0, time.monotonic() - due)
            self._beat_loop()
            _recorder.write(partial(_lag, self.loop_lag_seconds))


def _unplayed(trace: Trace) -> bool:
    """Return whether the episode counts as never sent."""
    if trace.ending is Ending.CANCELLED:
        return not trace.components.actual_usd
    return trace.ending is Ending.NO_ENGINE


def _lag(seconds: float) -> Iterator[Measurement]:
    yield Measurement(WORKER_LOOP_LAG, seconds)


def _leased(lease: Lease) -> Iterator[Measurement]:
    if lease.delivery > 1:
        yield Measurement(WORKER_REDELIVERIES, 1)


def _count(trace: Trace) -> Iterator[Measurement]:
    yield Measurement(WORKER_EPISODES, 1, {names.LABEL_PURPOSE: trace.purpose, names.LABEL_ENDING: trace.ending.value})
    for turn in trace.turns:
        if turn.rejection is not None:
            yield Measurement(WORKER_REJECTIONS, 1, {names.LABEL_KIND: turn.rejection})
    if trace.forks:
        yield Measurement(WORKER_FORKS, trace.forks)
