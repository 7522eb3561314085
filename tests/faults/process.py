"""A worker or a controller as a process of its own, to be killed by SIGKILL.

A controller dies at its point after SIGUSR1, ends between two steps on SIGTERM, and writes down what it waits for on
SIGUSR2.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

from faults.life import Life, know_lives
from faults.nats_bus import connect
from faults.plan import Combination, Plan
from faults.tally import Tally
from toolorchestra.contract.driver_config import DriverConfig

PLAN = "plan.json"


def write_plan(folder: Path, plan: Plan) -> None:
    """For `read_plan`, in another process."""
    known = {"episodes": plan.episodes, "seed": plan.seed, "without": sorted(plan.without)}
    (folder / PLAN).write_text(json.dumps(known | {"combination": asdict(plan.combination)}))


def read_plan(folder: Path) -> Plan:
    known = json.loads((folder / PLAN).read_text())
    return Plan(
        Combination(**known["combination"]), known["episodes"], known["seed"], without=frozenset(known["without"])
    )


async def work(folder: Path, *, number: int) -> None:
    """A worker until it is killed or told to stop."""
    from faults.players import play
    from faults.world import renderer_of

    plan, config = read_plan(folder), DriverConfig.read(folder / "driver.json")
    know_lives()
    life = Life(mortal=True)
    rng = plan.rng("worker", number)
    await life.run(
        play(
            await connect(config, name=f"worker-{number}", rng=rng, rates=plan.messages),
            life=life,
            config=config,
            name=f"worker-{number}",
            renderer=renderer_of(config.model_dir),
            plan=plan,
            rng=rng,
            seen=Tally(folder / "tally"),
            shared=False,
        )
    )


async def control(folder: Path, *, number: int, doom: str, actors: list[str]) -> None:
    """A controller's life; how it ended goes into a file."""
    from faults.controller import ScriptedJob, Surroundings, live
    from faults.snapshots import writer_of
    from faults.telling import tell

    plan, config = read_plan(folder), DriverConfig.read(folder / "driver.json")
    know_lives()
    life = Life(mortal=True)
    loop = asyncio.get_running_loop()
    jobs: list[ScriptedJob] = []

    def stop() -> None:
        for job in jobs:
            job.stop()

    def explain() -> None:
        from faults.stage import stack_of

        waiting = "\n".join(sorted(stack_of(task) for task in life.tasks if not task.done()))
        (folder / f"explained-{number}").write_text(f"{tell(jobs[0]) if jobs else 'no job'}\n{waiting}")

    loop.add_signal_handler(signal.SIGUSR1, setattr, life, "doom", doom)
    loop.add_signal_handler(signal.SIGTERM, stop)
    loop.add_signal_handler(signal.SIGUSR2, explain)

    async def reach() -> Any:
        rng = random.Random(plan.rng("bus", number).random())
        return await connect(config, name="controller", rng=rng, rates=plan.messages)

    around = Surroundings(
        plan=plan,
        config=config,
        connect=reach,
        actors=actors,
        number=number,
        tally=folder / "tally",
        shared_bus=False,
        snapshot=writer_of(config.model_dir),
    )
    ended = await life.run(live(around, life=life, on_job=jobs.append))
    draft = folder / f".ended-{number}"
    draft.write_text(json.dumps(asdict(ended), default=str))
    draft.replace(folder / f"ended-{number}.json")


def worker(folder: Path, number: int) -> None:
    """A worker's process."""
    asyncio.run(work(folder, number=number))


def controller(folder: Path, number: int, doom: str, actors: list[str]) -> None:
    """A controller's process."""
    asyncio.run(control(folder, number=number, doom=doom, actors=actors))
