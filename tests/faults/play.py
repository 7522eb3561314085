"""One combination from start to verdict: lives of the controller, what befalls them meanwhile, and a watchdog."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from faults.controller import Ended
from faults.oracle import judge
from faults.plan import Plan
from faults.stage import Stage
from toolorchestra.api.reasons import Reason
from toolorchestra.runs.run_dir import RunDir, read_jsonl

HANG_SECONDS = 75.0
"""Without a step, an evaluation or a new life: longer than every time-out of this world together."""
CRASHES = 6
"""Lives that may end by an exception of their own before it is given up (each is a problem already)."""
POLL_SECONDS = 0.05


class Hung(Exception):
    """The run does not end by itself."""


@dataclass
class Outcome:
    """A row of the table."""

    name: str
    seed: int
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list[str])
    figures: dict[str, Any] = field(default_factory=dict[str, Any])
    kills: dict[str, int] = field(default_factory=dict[str, int])
    held: Decimal = Decimal(0)
    """Reserved when the last controller ended."""

    @property
    def good(self) -> bool:
        return not self.problems


def _last(text: str, lines: int = 9) -> str:
    """The end of a traceback."""
    return "\n".join(text.strip().splitlines()[-lines:])


Progress = Callable[[str], None]


async def play_out(plan: Plan, stage: Stage, *, progress: Progress, bound_seconds: float) -> Outcome:
    """Run it to its end, or until it hangs; judge what is left."""
    began = time.monotonic()
    outcome = Outcome(plan.combination.name, plan.seed)
    kills: Counter[str] = Counter()
    try:
        async with asyncio.timeout(bound_seconds):
            await stage.start()
            await _lives(plan, stage, outcome, kills, progress=progress)
    except Hung as hung:
        outcome.problems.append(f"hang: {hung}")
    except TimeoutError:
        outcome.problems.append(f"hang: no end within {bound_seconds:g} s; {await stage.explain()}")
    finally:
        await stage.stop()
    outcome.seconds = round(time.monotonic() - began, 1)
    verdict = judge(plan, RunDir(stage.config.run), stage.provider.bill, held=outcome.held)
    if any(problem.startswith("hang") for problem in outcome.problems):  # the rest follows from it
        verdict.problems = [p for p in verdict.problems if not p.startswith(("steps", "ledger: Account", "trainers"))]
    outcome.problems += verdict.problems
    outcome.figures = verdict.figures | {"messages": stage.tally.counts(), "replies": dict(stage.provider.replies)}
    outcome.kills = dict(kills)
    return outcome


async def _lives(plan: Plan, stage: Stage, outcome: Outcome, kills: Counter[str], *, progress: Progress) -> None:
    chaos = asyncio.create_task(_chaos(plan, stage, kills))
    raised = crashes = 0
    try:
        while True:
            ended = await _one_life(plan, stage, chaos, progress=progress)
            outcome.problems += sorted(set(ended.breaches))
            outcome.held = ended.held
            match ended:
                case Ended(state="killed"):
                    kills["controller"] += 1
                case Ended(state="Cancelled"):
                    kills["resumes"] += 1
                case Ended(state="Paused", reason=reason) if reason == Reason.SPEND_CAP_REACHED and not raised:
                    raised = 1
                    kills["caps"] += 1
                    stage.raise_cap()
                case Ended(state="Complete"):
                    return
                case Ended(state="Failed") if crashes < CRASHES:
                    crashes += 1
                    outcome.problems.append(f"the controller died at step {ended.step}: {_last(ended.message)}")
                case _:
                    outcome.problems.append(f"{ended.state} ({ended.reason}) at step {ended.step}: {ended.message}")
                    return
    finally:
        chaos.cancel()
        await asyncio.gather(chaos, return_exceptions=True)


async def _one_life(plan: Plan, stage: Stage, chaos: asyncio.Task[None], *, progress: Progress) -> Ended:
    """Play a life under the watchdog."""
    life = asyncio.create_task(stage.life())
    mark: object = None
    moved = time.monotonic()
    while not life.done():
        await asyncio.wait({life, chaos} if not chaos.done() else {life}, timeout=1.0)
        if chaos.done() and not chaos.cancelled() and (error := chaos.exception()) is not None:
            life.cancel()
            raise error
        now = _mark(stage)
        if now != mark:
            mark, moved = now, time.monotonic()
            progress(f"{plan.combination.name}: step {now[0]} of {plan.steps}, {stage.clock} generations")
        patience = HANG_SECONDS * plan.slower
        if time.monotonic() - moved > patience:
            why = await stage.explain()
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)
            raise Hung(f"no step for {patience:g} s; {why}")
    return await life


def _mark(stage: Stage) -> tuple[int, int, int]:
    """Changes while the run moves."""
    run = RunDir(stage.config.run)
    steps = sum(1 for _ in read_jsonl(run.metrics))
    evaluations = sum(event["event"] != "engine" for event in read_jsonl(run.events))
    return steps, evaluations, stage.lives


async def _chaos(plan: Plan, stage: Stage, kills: Counter[str]) -> None:
    """Events when the clock says so. Some take a while: they overlap."""
    running: set[asyncio.Task[None]] = set()
    for event in plan.events():
        while stage.clock < event.at:  # noqa: ASYNC110 - a count of other processes has no event
            await asyncio.sleep(POLL_SECONDS)
        if event.kind not in ("controller", "resumes"):
            kills[event.kind] += 1
        running.add(asyncio.create_task(stage.befall(event.kind)))
    await asyncio.gather(*running)


def clean(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
