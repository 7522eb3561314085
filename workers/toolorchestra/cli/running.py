"""What `train` and `resume` share: making the plan from files, running it, and the exit status."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from toolorchestra.api.load import load
from toolorchestra.api.mistakes import ResourceError
from toolorchestra.api.training import OrchestratorTraining
from toolorchestra.cli.acceptance import accepted
from toolorchestra.cli.say import fail, say
from toolorchestra.contract.exit_status import EXIT_CODES
from toolorchestra.controller.settings import SettingsError
from toolorchestra.evaluation.acceptance import acceptance
from toolorchestra.gpus.devices import VISIBLE, visible_gpus
from toolorchestra.gpus.placement import PlacementError
from toolorchestra.local.compute import Compute, Device, DeviceError, compute_of, why_no_cuda_engine
from toolorchestra.local.launch import report, supervise
from toolorchestra.local.lock import RunLocked
from toolorchestra.local.nats_server import NatsServerError
from toolorchestra.local.plan import LocalError, LocalPlan, plan_of
from toolorchestra.local.reach import has_address, unknown_hosts
from toolorchestra.local.supervisor import SupervisorError
from toolorchestra.runs.run_dir import RunDir
from toolorchestra.sizing.division import MemoryRefused
from toolorchestra.tasks.source import SourceError
from toolorchestra.telemetry.setup import TelemetryError, check


def new_plan(
    files: Sequence[Path],
    *,
    name: str | None,
    simulator: Path | None,
    time_scale: float,
    volumes: Sequence[str],
    seed: int | None,
    device: Device,
    env: Mapping[str, str],
    folder: Path | None = None,
) -> LocalPlan:
    """Load and check everything. Mistakes end the command with status 2, after they are printed.

    `folder`: base of relative URIs; default: the working directory.
    """
    for file in [*files, *([simulator] if simulator else [])]:
        if not file.exists():
            fail(f"{file}: no such file")
    where: dict[str, Path] = {}
    for volume in volumes:
        claim, separator, place = volume.partition("=")
        if not separator or not Path(place).is_dir():
            fail(f"--volume {volume}: write CLAIM=DIR, where DIR is a folder that exists")
        where[claim] = Path(place)
    try:
        check(env)
        bundle = load([str(file) for file in files])
        plan = plan_of(
            bundle,
            name=name,
            volumes=where,
            skills=simulator,
            time_scale=time_scale,
            environment=env,
            folder=folder,
        )
        compute = _compute(plan, wanted=device, env=env)
    except (ResourceError, LocalError, SettingsError, SourceError, TelemetryError) as error:
        fail(str(error))
    except (DeviceError, PlacementError, MemoryRefused) as error:
        fail(str(error))
    lines = (*plan.summary, *compute.lines, *unknown_hosts(plan.pools, known=has_address))
    plan = replace(plan, summary=lines, compute=compute)
    return plan if seed is None else with_seed(plan, seed)


def _compute(plan: LocalPlan, *, wanted: Device, env: Mapping[str, str]) -> Compute:
    """Choose the devices. The GPU driver is queried only where GPUs may be used: waking a GPU takes seconds."""
    gpus = visible_gpus(env) if wanted != "cpu" else ()
    refused = why_no_cuda_engine() if gpus else None
    return compute_of(
        plan.training.spec,
        plan.model_dir,
        wanted=wanted,
        gpus=gpus,
        engine_refuses=refused,
        visible=env.get(VISIBLE),
    )


def with_seed(plan: LocalPlan, seed: int) -> LocalPlan:
    """Return the plan with another `spec.algorithm.seed`."""
    spec = plan.training.spec
    algorithm = spec.algorithm.model_copy(update={"seed": seed})
    training: OrchestratorTraining = plan.training.model_copy(
        update={"spec": spec.model_copy(update={"algorithm": algorithm})}
    )
    return replace(plan, training=training)


def run_to_the_end(run: RunDir, plan: LocalPlan, *, console: Console, check_acceptance: bool = False) -> None:
    """Supervise the run, write its report, and end the command with the exit status of its final state."""
    try:
        state = supervise(run, plan, console=console)
    except RunLocked as error:
        fail(str(error))
    except (SupervisorError, NatsServerError) as error:
        run.set_status(run.read_status() | {"state": "Failed", "message": str(error)})
        say(f"error: {error}\nerror: logs are in {run.logs}; continue with: orchestra resume {_short(run)}", err=True)
        raise typer.Exit(1) from error
    message = run.read_status().get("message", "")
    say(f"{state}: {message}" if message else state)
    if state in ("Cancelled", "Paused"):
        typer.echo(f"continue with: orchestra resume {_short(run)}")
    if run.metrics.exists():
        page = report(run)
        typer.echo(f"report: {_relative(page)}")
        _print_evaluations(run, console)
    met = is_accepted(run) if check_acceptance else True
    typer.echo(f"run: {_short(run)}")
    raise typer.Exit(EXIT_CODES[state] or (0 if met else 1))


def _print_evaluations(run: RunDir, console: Console) -> None:
    report = _report(run)
    table = Table("suite", "system", "tasks", "accuracy", "reward", "$/task", title="evaluations", title_justify="left")
    for row in report["evaluations"]:
        numbers = (f"{row['accuracy']:.3f}", f"{row['reward']:.3f}", f"{row['nominalUSDPerTask']:.6f}")
        table.add_row(row["suite"], row["system"], str(row["tasks"]), *numbers)
    console.print(table)
    for suite in report["suites"]:
        if suite["unscored"]:
            missing = ", ".join(f"{system} {tasks}" for system, tasks in suite["unscored"].items())
            console.print(f"{suite['suite']}: tasks without a score, because infrastructure failed: {missing}")


def is_accepted(run: RunDir) -> bool:
    """Print the acceptance criteria of the run's report; return whether all are met."""
    return accepted(acceptance(_report(run)) if (run.root / "report.json").exists() else [])


def _report(run: RunDir) -> dict[str, Any]:
    return dict(json.loads((run.root / "report.json").read_text()))


def _short(run: RunDir) -> str:
    return _relative(run.root)


def _relative(path: Path) -> str:
    try:
        return str(path.relative_to(os.getcwd()))
    except ValueError:
        return str(path)
