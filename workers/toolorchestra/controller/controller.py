"""The controller: samples tasks, dispatches episodes, keeps the ledger, rewards, trains, syncs the engines.

One event loop. Results come in on one task, steps go out on another; both act only through the bookkeeper, so the order
of events is the journal's. Invariant: nothing is published or acknowledged before the journal has it on disk.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from toolorchestra.api.conditions import Reason
from toolorchestra.controller.arrival import Arrival
from toolorchestra.controller.deferral import Deferrals
from toolorchestra.controller.instances import World
from toolorchestra.controller.monitoring import measurements
from toolorchestra.controller.monitoring.episode_spans import EpisodeSpans
from toolorchestra.controller.monitoring.service_times import ServiceTimes
from toolorchestra.controller.monitoring.stats import episode_stats, lags_of, mismatch_figures
from toolorchestra.controller.monitoring.vitality import Vitality
from toolorchestra.controller.outbox import Outbox
from toolorchestra.controller.pauses import Paused, Stopped, cap_reached
from toolorchestra.controller.ports import Delivery, EngineGroup, Trainers, Wire
from toolorchestra.controller.rewarding import Rewarding
from toolorchestra.ledger.journalled import Bookkeeper
from toolorchestra.ledger.ledger import Effects, StepPlan, Waiting
from toolorchestra.ledger.resume import KEY as HISTORY
from toolorchestra.policy.version import PolicyVersion
from toolorchestra.rewards.component import GroupReward
from toolorchestra.rollout.identity import Issue
from toolorchestra.rollout.trace import Ending, Trace
from toolorchestra.runs.run_dir import RunDir
from toolorchestra.telemetry.metrics import Recorder
from toolorchestra.trainer.batch import NonFiniteStep, StepConfig, StepMetrics
from toolorchestra.trainer.schedule import Schedule
from toolorchestra.weights.checkpoint import Checkpoint
from toolorchestra.weights.place import SnapshotPlace
from toolorchestra.weights.snapshot import Snapshot

TICK_SECONDS = 1.0
"""How often outages and lost issues are looked at while nothing else happens."""


MAX_NOT_FINITE = 3
"""Steps in a row that are not finite before the run pauses: by then it is the weights, not a batch."""
NOT_FINITE_REMEDY = (
    "Start it anew with a lower spec.algorithm.learningRate (or a longer warm-up of it), or with spec.algorithm.mask; "
    "resume as it is only if what broke was the machine."
)
PUBLISHES = 64
"""Orders on their way to the bus at a time."""


def batched(items: Iterable[Issue], size: int) -> Iterator[list[Issue]]:
    """Runs of at most `size` items, in order (itertools.batched is of Python 3.12)."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


@dataclass(frozen=True)
class ControllerConfig:
    """The algorithm's numbers that the controller itself needs."""

    steps: int
    step: StepConfig
    schedule: Schedule
    """Gives every step its learning rate."""
    checkpoint_every: int
    issue_timeout: float
    """Seconds after which an issue without a result, that a worker has had, is lost (the backstop behind the bus's own
    redelivery)."""
    max_failure_rate: float = 0.5
    """Share of recent results that infrastructure may end before the run pauses."""


@dataclass
class Controller:
    """One incarnation's training loop."""

    config: ControllerConfig
    run: RunDir
    world: World
    books: Bookkeeper
    rewarding: Rewarding
    wire: Wire
    trainers: Trainers
    engines: EngineGroup
    deferrals: Deferrals
    spans: EpisodeSpans
    traces: dict[Issue, Trace] = field(default_factory=dict[Issue, Trace])
    service_times: ServiceTimes = field(default_factory=ServiceTimes)
    recorder: Recorder = field(default_factory=Recorder)
    snapshots: Path | None = None
    """Where snapshots of the weights are written; None: in the run's folder."""
    stopping: bool = False
    vitality: Vitality = field(init=False)
    outbox: Outbox = field(init=False)
    _place: SnapshotPlace = field(init=False)
    _moved_at: float = field(default_factory=time.time)
    """When something was accepted last, or a step began to be waited for."""
    _wake: asyncio.Event = field(default_factory=asyncio.Event)
    _drops: Counter[str] = field(default_factory=Counter[str])
    _recent: list[bool] = field(default_factory=list[bool])
    _unscored: Counter[str] = field(default_factory=Counter[str])
    _not_finite: int = 0
    """Steps in a row that could not be applied."""
    _said: dict[str, str] = field(default_factory=dict[str, str])
    """By reason, what the last worker said of it."""
    _snapshot_seconds: float = 0.0
    """For which the trainers wrote the last version's weights."""
    _pause_seconds: float = 0.0
    """For which the engines took no requests, because of the last version's weights."""

    def __post_init__(self) -> None:
        self._place = SnapshotPlace(
            self.run.weights, self.snapshots, lambda why: self.run.event("snapshots_moved", why)
        )
        self.vitality = Vitality(steps=self.config.steps, require_format=self.rewarding.filters.require_format)
        ledger = self.books.ledger
        self.outbox = Outbox(
            self.wire, self.books, live=lambda i: ledger.sibling(i) is not None, patience=self.config.issue_timeout
        )

    def stop(self) -> None:
        """End between two steps: `step` raises Stopped."""
        self.stopping = True
        self._wake.set()

    # ── results ────────────────────────────────────────────────────────────────────────────────────────────────

    async def take(self, deliveries: list[Delivery]) -> None:
        """Enter a batch of results of this training: decide, journal, carry out, acknowledge."""
        now = time.time()
        parts = [self._enter(delivery, now=now) for delivery in deliveries]
        issues = [issue for effects in parts for issue in effects.issues]
        issues += self.books.admit(now=now)
        await self._flush()
        await self._send(issues)
        for delivery in deliveries:
            await delivery.ack()
        self._wake.set()

    def _enter(self, delivery: Delivery, *, now: float) -> Effects:
        arrival = delivery.arrival
        entry = self.books.enter(arrival.result(), arrival.body, now=now)
        self.recorder.write(measurements.of_arrival, arrival, verdict=entry.verdict, purpose="train")
        self.recorder.write(measurements.of_excluded, [reason for _, reason in entry.effects.excluded])
        if entry.verdict != "duplicate" and arrival.trace is not None:
            self.deferrals.saw(arrival.trace, deferred_for=arrival.deferred_for)
        if entry.verdict == "accepted" and arrival.trace is not None:
            self._moved_at = self.deferrals.clock()
            self.traces[arrival.issue] = arrival.trace
            self.spans.accepted(arrival.issue, arrival.trace, step=self.books.ledger.step)
            self.vitality.played(arrival.trace)
        if entry.verdict in ("accepted", "failed") and arrival.trace is not None:
            self.service_times.observe(arrival.trace)
        for episode, reason in entry.effects.excluded:
            self.spans.excluded(episode, reason)
        # That its worker was stopped, or is gone, says nothing of the run: all of a node may go at once.
        stopped = arrival.abandoned or (arrival.trace is not None and arrival.trace.ending is Ending.CANCELLED)
        if entry.verdict in ("accepted", "failed") and not stopped:
            self._recent = [*self._recent[-199:], entry.verdict == "failed"]
        if entry.verdict == "failed":
            self._count_failure(arrival)
        self.judge(entry.effects.finished)
        return entry.effects

    def _count_failure(self, arrival: Arrival) -> None:
        """Remember why; the first of each kind is an event of the run, with the worker's own words."""
        reason = arrival.result().reason
        self._unscored[reason] += 1
        if reason not in self._said:
            said = arrival.reason or "no more is known"
            self.run.event("unscored", f"an episode ended as {reason}: {said}", reason=reason, issue=str(arrival.issue))
        self._said[reason] = arrival.reason

    def judge(self, finished: Iterable[int]) -> None:
        """Decide on finished groups: too few scored siblings, filtered, or kept for a step."""
        for number in finished:
            reason = "too_few_scored"
            if self.books.ledger.scored_enough(number):
                traces = [self.traces[i] for i in self.books.ledger.groups[number].accepted]
                verdict = self.rewarding.judge(self.rewarding.components(self.world.instance(number), traces))
                if verdict.keep:
                    self.books.ledger.keep(number)
                    continue
                reason = verdict.reason
            self._drops[reason] += 1
            self._forget(self.books.drop(number, reason), reason=reason)

    def _forget(self, issues: Iterable[Issue], *, reason: str) -> None:
        """What was accepted for these issues will not be trained."""
        traces = [trace for issue in issues if (trace := self.traces.pop(issue, None))]
        self.recorder.write(measurements.of_wasted, traces, reason=reason)

    async def _send(self, issues: Iterable[Issue]) -> None:
        """Publish issues that are in the journal, several at a time: every publish waits for its acknowledgement."""
        for some in batched(issues, PUBLISHES):
            await asyncio.gather(*(self._submit(issue) for issue in some))

    async def _submit(self, issue: Issue) -> None:
        order = self.world.order(issue, allowance=self.books.ledger.limit)
        await self.outbox.send(order, headers=self.spans.headers(issue, task=order.task.id))

    async def _flush(self) -> None:
        await asyncio.to_thread(self.books.flush)

    # ── steps ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def recover(self, restored: Effects) -> None:
        """Publish what an earlier incarnation left under way."""
        self.judge(restored.finished)
        await self._flush()
        await self._send(restored.issues)

    async def step(self) -> dict[str, Any]:
        """One optimizer step: wait for its groups, train, bring the weights to the engines. Returns its metrics line.

        Paused where waiting cannot help; Stopped where the run was asked to end.
        """
        started = time.monotonic()
        step = self.books.ledger.step
        config = replace(self.config.step, lr=self.config.schedule.rate(step))
        while True:
            plan = await self._next_plan()
            waited = time.monotonic() - started
            groups = [
                (self.world.instance(n), [self.traces[i] for i in ids]) for n, ids in self.books.begin(plan).items()
            ]
            samples, rewards = self.rewarding.batch(groups, version=PolicyVersion(self.books.ledger.incarnation, step))
            rewarded = time.monotonic()
            try:
                metrics = await self.trainers.step(samples, config) if samples else None
            except NonFiniteStep as error:
                await self._set_aside(str(error), rate=config.lr)
                continue
            break
        trained = time.monotonic()
        self._not_finite = 0
        await self._new_version(step + 1)
        synced = time.monotonic()
        self.books.publish(step + 1)
        issues = self.books.admit(now=time.time())
        await self._flush()
        await self._send(issues)
        seconds = {
            "generate_wait": waited,
            "reward": rewarded - started - waited,
            "train": trained - rewarded,
            "sync": synced - trained,
            "total": time.monotonic() - started,
        }
        trained_on = [trace for _, traces in groups for trace in traces]
        if (said := self.vitality.stepped(trained_on, samples=len(samples), dropped=dict(self._drops))) is not None:
            self.run.event("empty_step", f"step {step + 1}: {said}", step=step + 1)
        row = self._row(step, groups=groups, rewards=rewards, samples=len(samples), metrics=metrics, seconds=seconds)
        self.recorder.write(measurements.of_step, row, lags_of(trained_on, step=step))
        self.recorder.write(measurements.of_books, self.books.ledger, now=time.time())
        for trace in trained_on:
            self.traces.pop(Issue.parse(trace.issue), None)
        return row

    def check(self) -> None:
        """Paused where the run does not learn (vitality.py); for between two steps."""
        if (complaint := self.vitality.complaint()) is not None:
            raise Paused(complaint.message, reason=complaint.reason)

    async def _set_aside(self, error: str, *, rate: float) -> None:
        """A step that is not finite would be so in every life: go on with other groups. Paused after several in a row,
        when it is not the batch."""
        issues = self.books.abandon("non_finite")
        groups = {issue.episode.group for issue in issues}
        self._not_finite += 1
        self._drops["non_finite"] += len(groups)
        self._forget(issues, reason="non_finite")
        await self._flush()
        said = f"a step was not finite ({error}): its {len(groups)} groups are set aside"
        self.run.event("non_finite", said, groups=sorted(groups), step=self.books.ledger.step)
        if self._not_finite >= MAX_NOT_FINITE:
            raise Paused(
                f"{self._not_finite} steps in a row were not finite at a learning rate of {rate:g}, the last one: "
                f"{error}. {NOT_FINITE_REMEDY} Checkpoints are in {self.run.checkpoints}.",
                reason=Reason.STEPS_NOT_FINITE,
            )

    async def _next_plan(self) -> StepPlan:
        self._moved_at = self.deferrals.clock()  # an evaluation, or the last step, was no standstill
        while True:
            self._wake.clear()
            if self.stopping:
                raise Stopped
            await self._admit()
            await self.look_after()
            if pause := self.deferrals.pause(moved_at=self._moved_at):
                raise pause
            plan = self.books.next_step()
            if isinstance(plan, StepPlan):
                return plan
            await self._unblock(plan)
            try:
                await asyncio.wait_for(self._wake.wait(), TICK_SECONDS)
            except TimeoutError:
                continue

    async def _unblock(self, waiting: Waiting) -> None:
        """Do what waiting would not: drop stragglers, or pause with the reason."""
        ledger = self.books.ledger
        if waiting.stragglers and ledger.config.on_stale == "Drop":
            effects = self.books.kill(waiting.stragglers, now=time.time())
            self._drops["stale"] += len(waiting.stragglers)
            self._forget(effects.set_aside, reason="stale")
            await self._carry_out(effects)
            return
        if waiting.paused:
            what = "Loosen spec.algorithm.filters, raise groupSize, or set whenShort: Shrink."
            raise Paused(f"{waiting.reason}. {what}", reason=Reason.GROUPS_EXHAUSTED)
        if ledger.broke:
            raise cap_reached(ledger.spend)
        if len(self._recent) >= 100 and sum(self._recent) / len(self._recent) > self.config.max_failure_rate:
            causes = ", ".join(f"{reason} ({n})" for reason, n in self._unscored.most_common(3))
            last = self._said.get(self._unscored.most_common(1)[0][0]) if self._unscored else ""
            said = f" The last one: {last}" if last else ""
            failed = f"{sum(self._recent)} of the last {len(self._recent)} episodes failed: {causes}.{said}"
            raise Paused(failed, reason=Reason.FAILURE_RATE_EXCEEDED)

    async def _admit(self) -> None:
        await self._issue(self.books.admit(now=time.time()))

    async def _issue(self, issues: Sequence[Issue]) -> None:
        if issues:
            await self._flush()
            await self._send(issues)

    async def look_after(self) -> None:
        """Try what an outage held back, expire what is lost, count what nobody has billed in time.

        Also while something else than a step is waited for: else what is lost stays reserved for ever.
        """
        now, ledger = time.time(), self.books.ledger
        self.books.presume(now=now)
        again = self.books.retry(self.deferrals.may_try, now=now)
        for issue in again:
            if (sibling := ledger.sibling(issue)) is not None and sibling.expert:
                self.deferrals.tries(str(issue), pool=sibling.expert)
        await self._issue(again)
        if overdue := ledger.overdue(now=now, timeout=self.config.issue_timeout):
            lost, queued = await self.outbox.lost(overdue)
            ledger.queued(queued, now=now)
            await self._carry_out(self.books.expire(lost, now=now))

    async def _carry_out(self, effects: Effects) -> None:
        """Effects of what was decided here, not by a result: journal, publish, take back from the bus."""
        self.recorder.write(measurements.of_excluded, [reason for _, reason in effects.excluded])
        for episode, reason in effects.excluded:
            self.spans.excluded(episode, reason)
        self.judge(effects.finished)
        await self._flush()
        await self._send(effects.issues)
        await self.outbox.withdraw(effects.dead)

    async def _new_version(self, step: int, *, adopt: bool = False) -> Snapshot:
        """Write the snapshot of the trainers' weights and put it in service."""
        version = str(PolicyVersion(self.books.ledger.incarnation, step))
        previous = str(PolicyVersion(self.books.ledger.incarnation, step - 1))
        began = time.monotonic()
        snapshot = await self._place.write(
            version, keep=[previous], snapshot=lambda folder: self.trainers.snapshot(folder, version=version)
        )
        written = time.monotonic()
        await self.engines.load(snapshot, adopt=adopt)
        self._snapshot_seconds, self._pause_seconds = written - began, time.monotonic() - written
        return snapshot

    async def first_version(self) -> Snapshot:
        """The weights that this incarnation starts from, in service on whatever engines there are."""
        return await self._new_version(self.books.ledger.step, adopt=True)

    def _row(
        self,
        step: int,
        *,
        groups: list[Any],
        rewards: list[GroupReward],
        samples: int,
        metrics: StepMetrics | None,
        seconds: dict[str, float],
    ) -> dict[str, Any]:
        traces = [trace for _, siblings in groups for trace in siblings]
        ledger = self.books.ledger
        row: dict[str, Any] = {
            "step": step + 1,
            "version": str(PolicyVersion(ledger.incarnation, step + 1)),
            "time": round(time.time(), 3),
            **episode_stats(traces, rewards, step=step),
            "groups_trained": len(groups),
            "samples": samples,
            "empty_steps": self.vitality.empty_steps,
            "learning_rate": self.config.schedule.rate(step),
            "groups_dropped": dict(self._drops),
            "unscored": dict(self._unscored),
            "spent_usd": float(ledger.spend.settled),
            "trainer_idle_fraction": min(1.0, seconds["generate_wait"] / max(seconds["total"], 1e-9)),
            "snapshot_seconds": round(self._snapshot_seconds, 4),
            "engine_pause_seconds": round(self._pause_seconds, 4),
            "seconds": {name: round(value, 4) for name, value in seconds.items()},
        }
        if self.rewarding.centred:
            row.pop("reward_mean", None)
        if metrics is not None:
            row |= {
                "loss": metrics.loss,
                "grad_norm": metrics.grad_norm,
                "entropy": metrics.entropy,
                "kl": metrics.approx_kl,
                "clip_fraction": metrics.clip_fraction,
                "ratio_mean": metrics.ratio_mean,
                **mismatch_figures(metrics.mismatch),
                "tokens": metrics.tokens,
                "trained_tokens": metrics.trained_tokens,
                "tokens_per_second": metrics.tokens / max(seconds["total"], 1e-9),
                "trainer_seconds": metrics.seconds,
            }
        self._drops.clear()
        self._unscored.clear()
        return row

    # ── checkpoints ────────────────────────────────────────────────────────────────────────────────────────────

    async def checkpoint(self) -> Checkpoint:
        """Save weights, optimizer and everything a new incarnation needs; complete or absent."""
        await self._flush()
        ledger, durable = self.books.ledger, self.books.journal.synced
        job = {
            "step": ledger.step,
            "incarnation": ledger.incarnation,
            "journal_offset": durable,
            HISTORY: await asyncio.to_thread(self.books.index.at, ledger.step),
            "next_group": ledger.next_group,
            "live_groups": sorted(ledger.groups),
            "spend": ledger.spend.as_dict(),
            "metrics_offset": self.run.metrics.stat().st_size if self.run.metrics.exists() else 0,
            "seed": self.world.seed,
        }
        saved = await self.trainers.save(ledger.step, job)
        self.books.journal.note("checkpoint", step=ledger.step, folder=saved.path.name)
        await self._flush()
        return saved
