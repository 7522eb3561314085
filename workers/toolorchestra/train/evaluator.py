"""Evaluation over the same bus, workers and engines as training: one greedy episode per task and system.

Its episodes have a uid of their own, so that no result of one evaluation is ever taken for another's or for training.
What infrastructure failed is sent again, at most `MAX_ISSUES` times, then recorded as unscored: a file has a frame for
every task of the suite, so that a report can say how many are missing.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

from toolorchestra.evaluation.archive import SUFFIX
from toolorchestra.rollout.identity import Episode, Issue
from toolorchestra.rollout.order import Order
from toolorchestra.rollout.trace import Ending, Sampling
from toolorchestra.train.arrival import UNDECODABLE, Arrival
from toolorchestra.train.bookkeeper import Verdict
from toolorchestra.train.issues import MAX_ISSUES
from toolorchestra.train.journal import Kind, write_sealed
from toolorchestra.train.ports import Delivery, Wire
from toolorchestra.train.run_meter import RunMeter
from toolorchestra.train.settings import EvaluationSuite
from toolorchestra.train.world import Instance, World, sampling_seed

WINDOW = 512
"""Orders under way at a time: enough to keep every worker busy, far below the stream's limit."""
RETRY_SECONDS = 2.0
"""Pause before an episode is sent again after an expert's outage."""


@dataclass(frozen=True)
class Job:
    """One system on one suite. `version` pins the policy's weights; None for systems that do not use them."""

    suite: EvaluationSuite
    system: str
    name: str
    """Name in reports and files: the system, or `initialPolicy`."""
    version: str | None = None

    def file(self, folder: Path) -> Path:
        """Where its traces belong under an evaluations folder."""
        return folder / self.suite.name / f"{self.name}{SUFFIX}"


@dataclass(frozen=True)
class Evaluated:
    """What became of a job's tasks: how many were scored, and why others were not."""

    scored: int
    unscored: Mapping[str, int]

    def __str__(self) -> str:
        if not self.unscored:
            return f"{self.scored} tasks"
        why = ", ".join(f"{reason} {n}" for reason, n in self.unscored.items())
        return f"{self.scored} tasks, {sum(self.unscored.values())} not scored ({why})"


@dataclass
class _Attempt:
    order: Order
    done: asyncio.Future[Delivery]


@dataclass
class Evaluator:
    """Runs jobs; results are handed in by whoever reads the bus."""

    wire: Wire
    world: World
    uid: str
    incarnation: int
    allowance: Decimal | None = None
    spent: Decimal = Decimal(0)
    """Actual dollars of the evaluations so far."""
    meter: RunMeter = field(default_factory=RunMeter)
    _serial: int = 0
    _waiting: dict[Issue, _Attempt] = field(default_factory=dict[Issue, _Attempt])

    def owns(self, issue: Issue) -> bool:
        return issue.episode.uid.startswith(f"{self.uid}-e")

    async def take(self, delivery: Delivery) -> None:
        """A result of an evaluation, of this incarnation or an earlier one (which is dropped)."""
        attempt = self._waiting.pop(delivery.arrival.issue, None)
        self.spent += self._bill(delivery.arrival)
        self.meter.arrived(delivery.arrival, verdict=_verdict(delivery.arrival, waited_for=attempt), purpose="evaluate")
        if attempt is not None and not attempt.done.done():
            attempt.done.set_result(delivery)
        await delivery.ack()

    def _bill(self, arrival: Arrival) -> Decimal:
        """Where the worker is gone, the bill is unknown and counts as the worst case."""
        return self.allowance or Decimal(0) if arrival.trace is None else arrival.trace.components.actual_usd

    async def run(self, job: Job, *, into: Path) -> Evaluated:
        """Evaluate a job and write its traces under `into`."""
        self._serial += 1
        uid = f"{self.uid}-e{self.incarnation}x{self._serial}"
        instances = self._instances(job)
        window = asyncio.Semaphore(WINDOW)
        tasks = [self._attempt(job, instance, Episode(uid, i, 0), window) for i, instance in enumerate(instances)]
        arrivals = [delivery.arrival for delivery in await asyncio.gather(*tasks)]
        bills = [self._bill(arrival) for arrival in arrivals]
        await asyncio.to_thread(_write, job.file(into), arrivals, bills)
        unscored = Counter(_reason(arrival) for arrival in arrivals if not arrival.scored)
        return Evaluated(len(arrivals) - unscored.total(), dict(unscored.most_common()))

    def _instances(self, job: Job) -> list[Instance]:
        """The suite's instances; the same for every system and every evaluation, so that results are paired."""
        suite = job.suite
        key = f"{self.world.seed}/evaluation/{suite.name}"
        tasks = suite.suite.held_out(suite.size)
        draws = (
            self.world.view_of(task, key=f"{key}/{task.id}", sampler=suite.sampler, split="evaluation")
            for task in tasks
        )
        expert = job.system.removeprefix("always:")
        if expert == job.system:
            return list(draws)
        return [d for d in draws if any(e.pool == expert for e in d.view.experts)]

    async def _attempt(self, job: Job, instance: Instance, episode: Episode, window: asyncio.Semaphore) -> Delivery:
        """The first scored result, else the last one."""
        orders = [self._order(job, instance, Issue(episode, self.incarnation, n)) for n in range(MAX_ISSUES)]
        async with window:
            delivery = await self._send(orders[0])
            for order in orders[1:]:
                if delivery.arrival.scored:
                    break
                if delivery.arrival.deferred_for:
                    await asyncio.sleep(RETRY_SECONDS)
                delivery = await self._send(order)
        return delivery

    def _order(self, job: Job, instance: Instance, issue: Issue) -> Order:
        return Order(
            issue=str(issue),
            task=instance.task,
            view=instance.view,
            limits=self.world.limits,
            sampling=Sampling(temperature=0.0, seed=sampling_seed(self.world.seed, issue.episode.group, 0)),
            purpose="evaluate",
            system=job.system,
            allowance_usd=self.allowance,
            version=job.version,
        )

    async def _send(self, order: Order) -> Delivery:
        attempt = _Attempt(order, asyncio.get_running_loop().create_future())
        self._waiting[Issue.parse(order.issue)] = attempt
        await self.wire.submit(order)
        return await attempt.done


def _verdict(arrival: Arrival, *, waited_for: _Attempt | None) -> Verdict:
    """The word that the books have for such a result."""
    if waited_for is None:
        return "late"
    if arrival.deferred_for:
        return "deferred"
    return "accepted" if arrival.scored else "failed"


def _reason(arrival: Arrival) -> str:
    """Why it was not scored: its ending, or what the bus said where no trace came."""
    if arrival.trace is not None:
        return arrival.trace.ending.value
    return UNDECODABLE if arrival.undecodable else arrival.reason or Ending.WORKER_LOST.value


def _write(path: Path, arrivals: Iterable[Arrival], bills: Iterable[Decimal]) -> None:
    write_sealed(path, (_frame(arrival, usd) for arrival, usd in zip(arrivals, bills, strict=True)))


def _frame(arrival: Arrival, usd: Decimal) -> tuple[Kind, dict[str, str], bytes]:
    head = {"issue": str(arrival.issue), "usd": str(usd)}
    if arrival.scored:
        return Kind.ACCEPTED, head, arrival.body
    return Kind.UNSCORED, head | {"reason": _reason(arrival)}, arrival.body


def baseline_jobs(suites: Sequence[EvaluationSuite], pools: Sequence[str]) -> list[Job]:
    """Each expert alone on every suite; the other baselines are computed from these (evaluation/baselines.py)."""
    return [Job(suite, f"always:{pool}", f"always:{pool}") for suite in suites for pool in pools]
