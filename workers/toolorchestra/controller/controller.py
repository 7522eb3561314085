"""The controller: samples tasks, dispatches episodes, keeps the ledger, computes rewards, trains, syncs the engines.

It runs in one event loop. One asyncio task takes results, another makes steps. Both act only through the journalled
ledger, so the journal has the order of events. Invariant: nothing is published or acknowledged before the journal has
it on disk.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from toolorchestra.api.conditions import Reason
from toolorchestra.controller.deferral import Deferrals
from toolorchestra.controller.dispatcher import Dispatcher
from toolorchestra.controller.failures import Failures
from toolorchestra.controller.instances import Instances
from toolorchestra.controller.monitoring import measurements
from toolorchestra.controller.monitoring.episode_spans import EpisodeSpans
from toolorchestra.controller.monitoring.service_times import ServiceTimes
from toolorchestra.controller.monitoring.stats import lags_of
from toolorchestra.controller.monitoring.vitality import Vitality
from toolorchestra.controller.outbox import Outbox
from toolorchestra.controller.pauses import Paused, Stopped, cap_reached
from toolorchestra.controller.ports import Delivery, EngineGroup, Trainers, Wire
from toolorchestra.controller.rewarding import Rewarding
from toolorchestra.controller.step_line import Trained, step_line
from toolorchestra.controller.versions import Versions
from toolorchestra.ledger.journalled import JournalledLedger
from toolorchestra.ledger.ledger import Effects, StepPlan, Waiting
from toolorchestra.ledger.resume import KEY as HISTORY
from toolorchestra.policy.version import PolicyVersion
from toolorchestra.rollout.identity import Dispatch
from toolorchestra.rollout.trace import Trace
from toolorchestra.runs.run_dir import RunDir
from toolorchestra.telemetry.metrics import Recorder
from toolorchestra.trainer.batch import NonFiniteStep, StepConfig
from toolorchestra.trainer.schedule import Schedule
from toolorchestra.weights.checkpoint import Checkpoint
from toolorchestra.weights.place import SnapshotPlace
from toolorchestra.weights.snapshot import Snapshot

TICK_SECONDS = 1.0
"""Interval of the checks for outages and lost dispatches, in seconds."""


MAX_NOT_FINITE = 3
"""After this many non-finite steps in a row the run pauses: the weights are the likely cause, not a batch."""
NOT_FINITE_REMEDY = (
    "Start a new run with a lower spec.algorithm.learningRate (or a longer warm-up of it), or with "
    "spec.algorithm.mask; resume this run only if the machine was the cause."
)


@dataclass(frozen=True)
class ControllerConfig:
    """Settings of the algorithm that the controller itself needs."""

    steps: int
    step: StepConfig
    schedule: Schedule
    """Learning rate of every step."""
    checkpoint_every: int
    dispatch_timeout: float
    """Seconds after which a dispatch that a worker has had counts as lost if no result has come. A fallback: the bus
    normally redelivers it."""
    max_failure_rate: float = 0.5
    """The run pauses where infrastructure failures are more than this share of the recent results."""


@dataclass
class Controller:
    """The training loop of one incarnation."""

    config: ControllerConfig
    run: RunDir
    instances: Instances
    journalled: JournalledLedger
    rewarding: Rewarding
    wire: Wire
    trainers: Trainers
    engines: EngineGroup
    deferrals: Deferrals
    spans: EpisodeSpans
    traces: dict[Dispatch, Trace] = field(default_factory=dict[Dispatch, Trace])
    service_times: ServiceTimes = field(default_factory=ServiceTimes)
    recorder: Recorder = field(default_factory=Recorder)
    snapshots: Path | None = None
    """Folder for snapshots of the weights; None: in the run's folder."""
    stopping: bool = False
    vitality: Vitality = field(init=False)
    outbox: Outbox = field(init=False)
    dispatcher: Dispatcher = field(init=False)
    failures: Failures = field(init=False)
    versions: Versions = field(init=False)
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when results arrive or the run has to end."""
    _moved_at: float = field(default_factory=time.time)
    """Unix time of the last accepted result, or of the moment when the wait for a step began."""
    _drops: Counter[str] = field(default_factory=Counter[str])
    """Dropped groups since the last step, by reason."""
    _not_finite: int = 0
    """How many steps in a row were not finite."""

    def __post_init__(self) -> None:
        place = SnapshotPlace(self.run.weights, self.snapshots, lambda why: self.run.event("snapshots_moved", why))
        self.versions = Versions(self.trainers, self.engines, place)
        self.failures = Failures(self.run)
        self.vitality = Vitality(steps=self.config.steps, require_format=self.rewarding.filters.require_format)
        ledger = self.journalled.ledger
        self.outbox = Outbox(
            self.wire,
            self.journalled,
            live=lambda i: ledger.sibling(i) is not None,
            patience=self.config.dispatch_timeout,
        )
        self.dispatcher = Dispatcher(self.journalled, self.instances, self.outbox, self.spans)

    def stop(self) -> None:
        """Ask the loop to end between two steps: `step` then raises Stopped."""
        self.stopping = True
        self.wake.set()

    # ── results ────────────────────────────────────────────────────────────────────────────────────────────────

    async def take(self, deliveries: list[Delivery]) -> None:
        """Process a batch of results of this training: decide, journal, carry out, acknowledge."""
        now = time.time()
        parts = [self._enter(delivery, now=now) for delivery in deliveries]
        dispatches = [dispatch for effects in parts for dispatch in effects.dispatches]
        dispatches += self.journalled.admit(now=now)
        await self.dispatcher.flush()
        await self.dispatcher.send(dispatches)
        for delivery in deliveries:
            await delivery.ack()
        self.wake.set()

    def _enter(self, delivery: Delivery, *, now: float) -> Effects:
        arrival = delivery.arrival
        entry = self.journalled.enter(arrival.result(), arrival.body, now=now)
        self.recorder.write(measurements.of_arrival, arrival, verdict=entry.verdict, purpose="train")
        self.recorder.write(measurements.of_excluded, [reason for _, reason in entry.effects.excluded])
        if entry.verdict != "duplicate" and arrival.trace is not None:
            self.deferrals.saw(arrival.trace, deferred_for=arrival.deferred_for)
        if entry.verdict == "accepted" and arrival.trace is not None:
            self._moved_at = self.deferrals.clock()
            self.traces[arrival.dispatch] = arrival.trace
            self.spans.accepted(arrival.dispatch, arrival.trace, step=self.journalled.ledger.step)
            self.vitality.played(arrival.trace)
        if entry.verdict in ("accepted", "failed") and arrival.trace is not None:
            self.service_times.observe(arrival.trace)
        for episode, reason in entry.effects.excluded:
            self.spans.excluded(episode, reason)
        if entry.verdict in ("accepted", "failed"):
            self.failures.entered(arrival, failed=entry.verdict == "failed")
        self.judge(entry.effects.finished)
        return entry.effects

    def judge(self, finished: Iterable[int]) -> None:
        """Decide on finished groups: keep them for a step, or drop them (too few scored siblings, or filtered)."""
        for number in finished:
            reason = "too_few_scored"
            if self.journalled.ledger.scored_enough(number):
                traces = [self.traces[i] for i in self.journalled.ledger.groups[number].accepted]
                verdict = self.rewarding.judge(self.rewarding.components(self.instances.instance(number), traces))
                if verdict.keep:
                    self.journalled.ledger.keep(number)
                    continue
                reason = verdict.reason
            self._drops[reason] += 1
            self._forget(self.journalled.drop(number, reason), reason=reason)

    def _forget(self, dispatches: Iterable[Dispatch], *, reason: str) -> None:
        """Drop the traces of these dispatches: they will not be trained on."""
        traces = [trace for dispatch in dispatches if (trace := self.traces.pop(dispatch, None))]
        self.recorder.write(measurements.of_wasted, traces, reason=reason)

    # ── steps ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def recover(self, restored: Effects) -> None:
        """Judge the restored groups, and publish the dispatches that earlier incarnations left open."""
        self.judge(restored.finished)
        await self.dispatcher.flush()
        await self.dispatcher.send(restored.dispatches)

    async def step(self) -> dict[str, Any]:
        """Make one optimizer step: wait for its groups, train, sync the weights to the engines.

        Returns the step's line of metrics.jsonl. Raises Paused where waiting cannot help, Stopped where the run was
        asked to end.
        """
        started = time.monotonic()
        trained = await self._train(self.journalled.ledger.step)
        applied = time.monotonic()
        await self.versions.bring(trained.step + 1, incarnation=self.journalled.ledger.incarnation)
        sync = time.monotonic() - applied
        self.journalled.publish(trained.step + 1)
        dispatches = self.journalled.admit(now=time.time())
        await self.dispatcher.flush()
        await self.dispatcher.send(dispatches)
        return self._told(trained, seconds=trained.seconds | {"sync": sync, "total": time.monotonic() - started})

    async def _train(self, step: int) -> Trained:
        """Wait for the next groups and train on them; groups whose step is not finite are set aside."""
        began = time.monotonic()
        config = replace(self.config.step, lr=self.config.schedule.rate(step))
        while True:
            plan = await self._next_plan()
            waited = time.monotonic()
            groups = [
                (self.instances.instance(n), [self.traces[i] for i in ids])
                for n, ids in self.journalled.begin(plan).items()
            ]
            samples, rewards = self.rewarding.batch(
                groups, version=PolicyVersion(self.journalled.ledger.incarnation, step)
            )
            rewarded = time.monotonic()
            try:
                metrics = await self.trainers.step(samples, config) if samples else None
            except NonFiniteStep as error:
                await self._set_aside(str(error), rate=config.lr)
                continue
            self._not_finite = 0
            return Trained(
                step=step,
                rate=config.lr,
                groups=len(groups),
                traces=[trace for _, traces in groups for trace in traces],
                rewards=rewards,
                samples=len(samples),
                metrics=metrics,
                seconds={
                    "generate_wait": waited - began,
                    "reward": rewarded - waited,
                    "train": time.monotonic() - rewarded,
                },
            )

    def _told(self, trained: Trained, *, seconds: Mapping[str, float]) -> dict[str, Any]:
        """Return the line of a finished step; reset the counters, and drop the step's traces."""
        step, dropped = trained.step, dict(self._drops)
        said = self.vitality.stepped(trained.traces, samples=trained.samples, dropped=dropped)
        if said is not None:
            self.run.event("empty_step", f"step {step + 1}: {said}", step=step + 1)
        row = step_line(
            trained,
            self.journalled.ledger,
            seconds=seconds,
            versions=self.versions,
            empty_steps=self.vitality.empty_steps,
            dropped=dropped,
            unscored=self.failures.unscored,
            centred=self.rewarding.centred,
        )
        self._drops.clear()
        self.failures.unscored.clear()
        self.recorder.write(measurements.of_step, row, lags_of(trained.traces, step=step))
        self.recorder.write(measurements.of_books, self.journalled.ledger, now=time.time())
        for trace in trained.traces:
            self.traces.pop(Dispatch.parse(trace.issue), None)
        return row

    def check(self) -> None:
        """Raise Paused where the run does not learn (vitality.py); called between two steps."""
        if (complaint := self.vitality.complaint()) is not None:
            raise Paused(complaint.message, reason=complaint.reason)

    async def _set_aside(self, error: str, *, rate: float) -> None:
        """Set aside the groups of a non-finite step; raise Paused after several such steps in a row.

        The same groups would give a non-finite step in every incarnation, so training goes on with other groups.
        """
        dispatches = self.journalled.abandon("non_finite")
        groups = {dispatch.episode.group for dispatch in dispatches}
        self._not_finite += 1
        self._drops["non_finite"] += len(groups)
        self._forget(dispatches, reason="non_finite")
        await self.dispatcher.flush()
        said = f"the step was not finite ({error}): its {len(groups)} groups are set aside"
        self.run.event("non_finite", said, groups=sorted(groups), step=self.journalled.ledger.step)
        if self._not_finite >= MAX_NOT_FINITE:
            raise Paused(
                f"{self._not_finite} steps in a row were not finite at a learning rate of {rate:g}, the last one: "
                f"{error}. {NOT_FINITE_REMEDY} Checkpoints are in {self.run.checkpoints}.",
                reason=Reason.STEPS_NOT_FINITE,
            )

    async def _next_plan(self) -> StepPlan:
        self._moved_at = self.deferrals.clock()  # time spent in an evaluation or in the last step does not count
        while True:
            self.wake.clear()
            if self.stopping:
                raise Stopped
            await self._admit()
            await self.look_after()
            if pause := self.deferrals.pause(moved_at=self._moved_at):
                raise pause
            plan = self.journalled.next_step()
            if isinstance(plan, StepPlan):
                return plan
            await self.unblock(plan)
            try:
                await asyncio.wait_for(self.wake.wait(), TICK_SECONDS)
            except TimeoutError:
                continue

    async def unblock(self, waiting: Waiting) -> None:
        """Act where waiting alone does not help: drop stragglers, or raise Paused with the reason."""
        ledger = self.journalled.ledger
        if waiting.stragglers and ledger.config.on_stale == "Drop":
            effects = self.journalled.kill(waiting.stragglers, now=time.time())
            self._drops["stale"] += len(waiting.stragglers)
            self._forget(effects.set_aside, reason="stale")
            await self._carry_out(effects)
            return
        if waiting.paused:
            what = "Loosen spec.algorithm.filters, raise groupSize, or set whenShort: Shrink."
            raise Paused(f"{waiting.reason}. {what}", reason=Reason.GROUPS_EXHAUSTED)
        if ledger.broke:
            raise cap_reached(ledger.spend)
        if (failed := self.failures.complaint(most=self.config.max_failure_rate)) is not None:
            raise Paused(failed, reason=Reason.FAILURE_RATE_EXCEEDED)

    async def _admit(self) -> None:
        await self.dispatcher.dispatch(self.journalled.admit(now=time.time()))

    async def look_after(self) -> None:
        """Retry deferred episodes, expire lost dispatches, presume the cost of results that did not come in time.

        It also runs during evaluations: otherwise lost dispatches would stay reserved for ever.
        """
        now, ledger = time.time(), self.journalled.ledger
        self.journalled.presume(now=now)
        again = self.journalled.retry(self.deferrals.may_try, now=now)
        for dispatch in again:
            if (sibling := ledger.sibling(dispatch)) is not None and sibling.expert:
                self.deferrals.tries(str(dispatch), pool=sibling.expert)
        await self.dispatcher.dispatch(again)
        if overdue := ledger.overdue(now=now, timeout=self.config.dispatch_timeout):
            lost, queued = await self.outbox.lost(overdue)
            ledger.queued(queued, now=now)
            await self._carry_out(self.journalled.expire(lost, now=now))

    async def _carry_out(self, effects: Effects) -> None:
        """Carry out effects that no result caused: journal, publish, withdraw dead dispatches from the bus."""
        self.recorder.write(measurements.of_excluded, [reason for _, reason in effects.excluded])
        for episode, reason in effects.excluded:
            self.spans.excluded(episode, reason)
        self.judge(effects.finished)
        await self.dispatcher.flush()
        await self.dispatcher.send(effects.dispatches)
        await self.outbox.withdraw(effects.dead)

    async def first_version(self) -> Snapshot:
        """Put the weights that this incarnation starts from in service on the engines."""
        ledger = self.journalled.ledger
        return await self.versions.bring(ledger.step, incarnation=ledger.incarnation, adopt=True)

    # ── checkpoints ────────────────────────────────────────────────────────────────────────────────────────────

    async def checkpoint(self) -> Checkpoint:
        """Save a checkpoint (weights, optimizer, all that a new incarnation needs); it is complete or absent."""
        await self.dispatcher.flush()
        ledger, durable = self.journalled.ledger, self.journalled.journal.synced
        job = {
            "step": ledger.step,
            "incarnation": ledger.incarnation,
            "journal_offset": durable,
            HISTORY: await asyncio.to_thread(self.journalled.index.at, ledger.step),
            "next_group": ledger.next_group,
            "live_groups": sorted(ledger.groups),
            "spend": ledger.spend.as_dict(),
            "metrics_offset": self.run.metrics.stat().st_size if self.run.metrics.exists() else 0,
            "seed": self.instances.seed,
        }
        saved = await self.trainers.save(ledger.step, job)
        self.journalled.journal.note("checkpoint", step=ledger.step, folder=saved.path.name)
        await self.dispatcher.flush()
        return saved
