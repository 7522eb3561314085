"""Combinations in processes of their own, some at a time; a progress line; an end in order on Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from faults.forked import Forked
from faults.plan import Plan
from faults.play import Outcome, clean, play_out
from faults.stage import Stage

AT_A_TIME = 2
EPISODES_PER_SECOND = 10.0
"""A run slower than this does not end, for all we know; there are ten minutes besides."""
STARTING_SECONDS = 600.0


def bound_seconds(plan: Plan) -> float:
    """Within which a run must end by itself."""
    slower = 10.0 if plan.combination.engines == "vllm" else 1.0
    return STARTING_SECONDS + slower * plan.episodes / EPISODES_PER_SECOND


def make_stage(plan: Plan, folder: Path) -> Stage:
    """By bus and engines."""
    from faults.memory_stage import MemoryStage
    from faults.nats_stage import NatsStage

    return MemoryStage(plan, folder) if plan.combination.bus == "memory" else NatsStage(plan, folder)


def play(plan: Plan, folder: Path) -> None:
    """One combination in this process; its outcome goes into a file."""

    async def whole() -> Outcome:
        stage = make_stage(plan, folder)
        return await play_out(
            plan,
            stage,
            progress=lambda text: _tell(folder / "progress", text),
            bound_seconds=bound_seconds(plan),
        )

    try:
        outcome = asyncio.run(whole())
    except Exception:  # whatever it is: this process has no other way to tell it than its outcome
        outcome = Outcome(plan.combination.name, plan.seed, problems=[f"the harness broke: {traceback.format_exc()}"])
    _tell(folder / "outcome.json", json.dumps(asdict(outcome), default=str))


def _tell(path: Path, text: str) -> None:
    draft = path.with_name(f".{path.name}")
    draft.write_text(text)
    draft.replace(path)


async def run_all(
    plans: Sequence[Plan], folder: Path, *, at_a_time: int, on_end: Callable[[Outcome], None]
) -> list[Outcome]:
    """All plans; the outcomes in their order."""
    room = asyncio.Semaphore(at_a_time)
    running: dict[str, Path] = {}

    async def one(plan: Plan) -> Outcome:
        own = folder / plan.combination.name
        async with room:
            clean(own)
            own.mkdir(parents=True)
            running[plan.combination.name] = own
            child = Forked(play, plan, own, log=own / "log")
            try:
                code = await child.wait()
            finally:
                child.kill_family()
                del running[plan.combination.name]
        outcome = _read(plan, own, code)
        on_end(outcome)
        return outcome

    progress = asyncio.create_task(_show(running))
    try:
        return list(await asyncio.gather(*(one(plan) for plan in plans)))
    finally:
        progress.cancel()


def _read(plan: Plan, folder: Path, code: int) -> Outcome:
    said = folder / "outcome.json"
    if said.exists():
        return Outcome(**json.loads(said.read_text()))
    return Outcome(plan.combination.name, plan.seed, problems=[f"its process ended with {code}; see {folder / 'log'}"])


async def _show(running: dict[str, Path]) -> None:
    """One line that says where everybody is, once a second: nobody but a person at a terminal waits for it."""
    if not sys.stderr.isatty():
        return
    while True:
        told = [(folder / "progress").read_text() for folder in running.values() if (folder / "progress").exists()]
        print(f"\r\033[K{' | '.join(told)}"[:200], end="", file=sys.stderr, flush=True)
        await asyncio.sleep(1)
