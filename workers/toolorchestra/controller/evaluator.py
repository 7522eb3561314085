"""Evaluates over the same bus, workers and engines as training: one greedy episode per task and system.

Each evaluation has its own uid for its episodes, so that its results cannot be mistaken for others. An episode that
infrastructure failed is sent again, at most `MAX_DISPATCHES` times; one that an outage deferred, at most
`MAX_DEFERRALS` times. After that it is recorded as unscored. A file has a frame for every task of the suite, so that a
report can say how many are missing.

Invariants: every dispatch reserves its worst-case cost before it is published, and every cost is in the journal before
its result is acknowledged. Results that an earlier incarnation paid for and scored come from the journal.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

from toolorchestra.controller.arrival import UNDECODABLE, Arrival
from toolorchestra.controller.deferral import Deferrals
from toolorchestra.controller.instances import Instance, Instances, sampling_seed
from toolorchestra.controller.monitoring import measurements
from toolorchestra.controller.outbox import Outbox
from toolorchestra.controller.pauses import cap_reached
from toolorchestra.controller.ports import Delivery, Wire
from toolorchestra.controller.settings import EvaluationSuite
from toolorchestra.evaluation.archive import SUFFIX
from toolorchestra.ledger.history import Evaluation
from toolorchestra.ledger.journal import Kind, read_frame, read_frames, write_sealed
from toolorchestra.ledger.journalled import JournalledLedger, Result, Verdict
from toolorchestra.ledger.sibling import MAX_DEFERRALS, MAX_DISPATCHES
from toolorchestra.rollout.codec import decode_trace
from toolorchestra.rollout.identity import Dispatch, EpisodeId
from toolorchestra.rollout.order import Order
from toolorchestra.rollout.trace import Ending, Sampling
from toolorchestra.telemetry.metrics import Recorder

WINDOW = 512
"""Most orders in flight: enough to keep every worker busy, far below the stream's limit."""
TICK_SECONDS = 1.0
"""Interval at which tasks that wait for the cap or for an expert check again."""


@dataclass(frozen=True)
class EvaluationRun:
    """One system on one suite. `version` pins the policy's weights; None for systems that do not use them."""

    suite: EvaluationSuite
    system: str
    name: str
    """Name in reports and files: the system, or `initialPolicy`."""
    version: str | None = None

    def file(self, folder: Path) -> Path:
        """Return the path of its traces under an evaluations folder."""
        return folder / self.suite.name / f"{self.name}{SUFFIX}"


@dataclass(frozen=True)
class Evaluated:
    """Result of an evaluation run: the number of scored tasks, and of the others by reason."""

    scored: int
    unscored: Mapping[str, int]

    def __str__(self) -> str:
        tasks = "1 task" if self.scored == 1 else f"{self.scored} tasks"
        if not self.unscored:
            return tasks
        why = ", ".join(f"{reason} {n}" for reason, n in self.unscored.items())
        return f"{tasks}, {sum(self.unscored.values())} not scored ({why})"


@dataclass
class _Attempt:
    """A dispatch in flight. `since`: Unix time at which its timeout began."""

    done: asyncio.Future[Arrival]
    since: float


@dataclass(frozen=True)
class _Entry:
    """The final result of a task, and its cost in dollars."""

    arrival: Arrival
    usd: Decimal


async def _nothing() -> None:
    pass


@dataclass
class Evaluator:
    """Runs evaluations; the reader of the bus passes the results to `take`."""

    wire: Wire
    instances: Instances
    uid: str
    journalled: JournalledLedger
    deferrals: Deferrals
    dispatch_timeout: float
    """Seconds after which a dispatch that a worker has had counts as lost if no result has come."""
    recorder: Recorder = field(default_factory=Recorder)
    meanwhile: Callable[[], Awaitable[None]] = _nothing
    """Other work to do at every tick of an evaluation."""
    tick: float = TICK_SECONDS
    outbox: Outbox = field(init=False)
    _serial: int = 0
    _waiting: dict[Dispatch, _Attempt] = field(default_factory=dict[Dispatch, _Attempt])
    _stirred: asyncio.Event = field(default_factory=asyncio.Event)
    _moved_at: float = field(default_factory=time.time)

    def __post_init__(self) -> None:
        self.outbox = Outbox(
            self.wire, self.journalled, live=self._waiting.__contains__, patience=self.dispatch_timeout
        )

    @property
    def waits_for(self) -> int:
        """Number of dispatches in flight."""
        return len(self._waiting)

    # ── results ────────────────────────────────────────────────────────────────────────────────────────────────

    def owns(self, dispatch: Dispatch) -> bool:
        return dispatch.episode.uid.startswith(f"{self.uid}-e")

    async def take(self, deliveries: Sequence[Delivery]) -> None:
        """Process results of evaluations, of this or an earlier incarnation: journal, hand on, acknowledge."""
        entered = [self._enter(delivery.arrival) for delivery in deliveries]
        await asyncio.to_thread(self.journalled.flush)
        for delivery, new in zip(deliveries, entered, strict=True):
            attempt = self._waiting.pop(delivery.arrival.dispatch, None) if new else None
            if attempt is not None and not attempt.done.done():
                self._moved_at = self.deferrals.clock() if delivery.arrival.scored else self._moved_at
                attempt.done.set_result(delivery.arrival)
            await delivery.ack()
        self._stir()

    def _enter(self, arrival: Arrival) -> bool:
        trace = arrival.trace
        usd = arrival.result().usd
        result = Result(arrival.dispatch, arrival.scored, _reason(arrival), usd)
        new = self.journalled.enter_evaluated(result, arrival.body, task="" if trace is None else trace.task_id)
        verdict: Verdict = "duplicate" if not new else _verdict(arrival, late=arrival.dispatch not in self._waiting)
        self.recorder.write(measurements.of_arrival, arrival, verdict=verdict, purpose="evaluate")
        if new and trace is not None:
            self.deferrals.saw(trace, deferred_for=arrival.deferred_for)
        return new

    # ── jobs ───────────────────────────────────────────────────────────────────────────────────────────────────

    async def run(self, job: EvaluationRun, *, into: Path) -> Evaluated:
        """Run an evaluation and write its traces under `into`.

        Raises Paused where the spend cap or an expert makes it impossible to finish; dispatches in flight are then
        withdrawn.
        """
        self._serial += 1
        self._moved_at = self.deferrals.clock()  # the wait begins now
        uid = f"{self.uid}-e{self.journalled.ledger.incarnation}x{self._serial}"
        evaluation = Evaluation(job.suite.name, job.system, job.version)
        instances = self._instances(job)
        known = await asyncio.to_thread(self._known, evaluation, [i.task.id for i in instances])
        self.journalled.evaluation(uid, evaluation)
        window = asyncio.Semaphore(WINDOW)
        attempts = [
            self._attempt(job, instance, EpisodeId(uid, i, 0), window)
            for i, instance in enumerate(instances)
            if instance.task.id not in known
        ]
        found = iter(await self._all(attempts))
        entries = [known.get(instance.task.id) or next(found) for instance in instances]
        await asyncio.to_thread(_write, job.file(into), entries)
        unscored = Counter(_reason(e.arrival) for e in entries if not e.arrival.scored)
        return Evaluated(len(entries) - unscored.total(), dict(unscored.most_common()))

    def _known(self, evaluation: Evaluation, tasks: Sequence[str]) -> dict[str, _Entry]:
        """Return the results that earlier incarnations paid for and scored, by task."""
        history = self.journalled.history
        wanted = {dispatch: task for task in tasks if (dispatch := history.scored_before(evaluation, task=task))}
        found: dict[str, _Entry] = {}
        path = self.journalled.journal.path
        for frame in read_frames(path, bodies=False) if wanted else ():
            if frame.kind is Kind.EVALUATED and (task := wanted.get(frame.head["issue"])):
                body = read_frame(path, frame.start).body
                arrival = Arrival(Dispatch.parse(frame.head["issue"]), decode_trace(body), body)
                found[task] = _Entry(arrival, Decimal(frame.head["usd"]))
        return found

    async def _all(self, attempts: Sequence[Awaitable[_Entry]]) -> list[_Entry]:
        """Await all attempts while `_keep` handles lost ones; after the first error, cancel and withdraw the rest."""
        work = [asyncio.ensure_future(attempt) for attempt in attempts]
        everything = asyncio.create_task(_results(work))
        keeper = asyncio.create_task(self._keep())
        try:
            first: set[asyncio.Task[Any]] = {everything, keeper}
            await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
            if keeper.done():
                await keeper
            return await everything
        finally:
            for task in (keeper, everything, *work):
                task.cancel()
            await asyncio.gather(keeper, everything, *work, return_exceptions=True)
            left = list(self._waiting)
            self._waiting.clear()
            await self.outbox.withdraw(left)

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self.tick)
            if pause := self.deferrals.pause(moved_at=self._moved_at):
                raise pause
            now = time.time()
            self.journalled.presume(now=now)
            overdue = [i for i, attempt in self._waiting.items() if now - attempt.since > self.dispatch_timeout]
            lost, queued = await self.outbox.lost(overdue)
            for dispatch in queued:
                if dispatch in self._waiting:
                    self._waiting[dispatch].since = now
            gone = {
                dispatch: attempt for dispatch in lost if (attempt := self._waiting.pop(dispatch, None)) is not None
            }
            await self.outbox.withdraw(gone)
            for dispatch, attempt in gone.items():
                attempt.done.set_result(Arrival(dispatch, None, b"", reason="lost"))
            await self.meanwhile()
            self._stir()

    def _instances(self, job: EvaluationRun) -> list[Instance]:
        """Return the suite's instances: the same for every system and evaluation, so that results are paired."""
        suite = job.suite
        key = f"{self.instances.seed}/evaluation/{suite.name}"
        tasks = suite.suite.held_out(suite.size)
        draws = (
            self.instances.view_of(task, key=f"{key}/{task.id}", sampler=suite.sampler, split="evaluation")
            for task in tasks
        )
        expert = job.system.removeprefix("always:")
        if expert == job.system:
            return list(draws)
        return [d for d in draws if any(e.pool == expert for e in d.view.experts)]

    async def _attempt(
        self, job: EvaluationRun, instance: Instance, episode: EpisodeId, window: asyncio.Semaphore
    ) -> _Entry:
        """Send a task until it is scored or the limits are reached; return the first scored result, else the last."""
        failures = deferrals = 0
        waited_for: str | None = None
        for sending in count():
            dispatch = Dispatch(episode, self.journalled.ledger.incarnation, sending)
            if waited_for:
                self.deferrals.tries(str(dispatch), pool=waited_for)
            async with window:
                arrival = await self._send(job, instance, dispatch)
            if arrival.scored:
                break
            if arrival.deferred_for:
                deferrals += 1
            elif not arrival.untouched:
                failures += 1
            if failures >= MAX_DISPATCHES or deferrals >= MAX_DEFERRALS:
                break
            waited_for = arrival.deferred_for
            if arrival.deferred_for:
                while not self.deferrals.may_try(arrival.deferred_for):
                    await self._stirred.wait()
        usd = arrival.trace.components.actual_usd if arrival.trace else self.journalled.ledger.allowance
        return _Entry(arrival, usd)

    def _stir(self) -> None:
        """Wake all waiting tasks so that they check again: a result has come, or a tick has passed."""
        self._stirred.set()
        self._stirred = asyncio.Event()

    async def _send(self, job: EvaluationRun, instance: Instance, dispatch: Dispatch) -> Arrival:
        while not self.journalled.dispatch(dispatch):
            if not self.journalled.ledger.spend.reserved:
                raise cap_reached(self.journalled.ledger.spend)
            await self._stirred.wait()
        attempt = _Attempt(asyncio.get_running_loop().create_future(), since=time.time())
        self._waiting[dispatch] = attempt
        await self.outbox.durable()
        await self.outbox.send(self._order(job, instance, dispatch))
        return await attempt.done

    def _order(self, job: EvaluationRun, instance: Instance, dispatch: Dispatch) -> Order:
        return Order(
            issue=str(dispatch),
            task=instance.task,
            view=instance.view,
            limits=self.instances.limits,
            sampling=Sampling(temperature=0.0, seed=sampling_seed(self.instances.seed, dispatch.episode.group, 0)),
            purpose="evaluate",
            system=job.system,
            allowance_usd=self.journalled.ledger.limit,
            version=job.version,
        )


async def _results(work: Sequence[asyncio.Future[_Entry]]) -> list[_Entry]:
    return await asyncio.gather(*work)


def _verdict(arrival: Arrival, *, late: bool) -> Verdict:
    """Return the verdict that the ledger would give for this result."""
    if late:
        return "late"
    if arrival.deferred_for:
        return "deferred"
    return "accepted" if arrival.scored else "failed"


def _reason(arrival: Arrival) -> str:
    """Return why the result has no score: its ending, or the bus's reason where no trace came."""
    if arrival.trace is not None:
        return arrival.trace.ending.value
    return UNDECODABLE if arrival.undecodable else arrival.reason or Ending.WORKER_LOST.value


def _write(path: Path, entries: Iterable[_Entry]) -> None:
    write_sealed(path, (_frame(entry.arrival, entry.usd) for entry in entries))


def _frame(arrival: Arrival, usd: Decimal) -> tuple[Kind, dict[str, str], bytes]:
    head = {"issue": str(arrival.dispatch), "usd": str(usd)}
    if arrival.scored:
        return Kind.ACCEPTED, head, arrival.body
    return Kind.UNSCORED, head | {"reason": _reason(arrival)}, arrival.body


def baseline_jobs(suites: Sequence[EvaluationSuite], pools: Sequence[str]) -> list[EvaluationRun]:
    """Return one run per expert and suite; other baselines are computed from these (evaluation/baselines.py)."""
    return [EvaluationRun(suite, f"always:{pool}", f"always:{pool}") for suite in suites for pool in pools]
