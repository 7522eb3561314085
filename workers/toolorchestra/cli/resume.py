"""`orchestra resume`: continue a local run, or a suspended training on a cluster, from its last checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from toolorchestra.cli.cluster import Context, Kubeconfig, Namespace
from toolorchestra.cli.place import Place
from toolorchestra.cli.runs import RUNS, Folder, find_run
from toolorchestra.cli.say import fail
from toolorchestra.runs.run_dir import RunDir


def resume(
    run: Annotated[
        Path, typer.Argument(help="A run's folder or its name under runs/; otherwise a training on the cluster.")
    ],
    folder: Folder = RUNS,
    wait: Annotated[bool, typer.Option("-w", "--wait", help="On a cluster: follow it to its end.")] = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Continue a local run or a cluster training from its last complete checkpoint. No accepted episode is lost.

    A local run gets a new incarnation. A complete run stays as it is, unless its YAML now asks for more steps. A
    training on a cluster continues with its next attempt.

    Example: orchestra resume router -n research
    """
    place = Place(kubeconfig, context, namespace)
    if place.holds(run, runs=folder):
        from toolorchestra.cli.training_resume import resume_training

        resume_training(str(run), place, wait=wait)
        return
    resume_run(run, runs=folder)


def resume_run(run: Path, *, runs: Path, check_acceptance: bool = False) -> None:
    """Continue a local run in this process, until it ends; `check_acceptance` as in `run_to_the_end`."""
    from toolorchestra.cli.running import is_accepted, new_plan, run_to_the_end, with_seed
    from toolorchestra.local.compute import device_of
    from toolorchestra.local.lock import RunLock, RunLocked

    folder = RunDir(find_run(run, folder=runs).root.resolve())
    manifest = folder.read_manifest()
    options = manifest["options"]
    try:
        RunLock(folder).check()
    except RunLocked as error:
        fail(str(error))
    if is_complete(folder, goal=goal_of(manifest)):
        typer.echo(f"{folder.name} is complete: nothing was started")
        page = folder.root / "report.html"
        typer.echo(f"report: {page}" if page.exists() else f"write the report with: orchestra report {folder.root}")
        if check_acceptance and not is_accepted(folder):
            raise typer.Exit(1)
        return
    plan = new_plan(
        [Path(path) for path in options["inputs"]],
        name=manifest["name"],
        simulator=Path(options["simulator"]) if options["simulator"] else None,
        time_scale=float(options["timeScale"]),
        volumes=[f"{claim}={path}" for claim, path in options["volumes"].items()],
        seed=None,
        device=device_of(options),
        env=os.environ,
        folder=Path(options["folder"]) if options.get("folder") else None,
    )
    plan = with_seed(plan, int(manifest["seed"]))
    typer.echo(f"continuing {folder.name}")
    run_to_the_end(folder, plan, console=Console(), check_acceptance=check_acceptance)


def is_complete(run: RunDir, *, goal: int) -> bool:
    """Return whether the run did all steps up to `goal` and what follows them (state Complete)."""
    status = run.read_status()
    return status.get("state") == "Complete" and goal <= int(status.get("steps", 0))


def goal_of(manifest: Mapping[str, Any]) -> int:
    """Return the number of steps that the run's files ask for now; 0 where the files are gone or wrong."""
    from toolorchestra.api.load import load
    from toolorchestra.api.mistakes import ResourceError

    files = [path for path in manifest["options"]["inputs"] if Path(path).exists()]
    try:
        trainings = load(files).trainings if files else ()
    except ResourceError:
        return 0
    return next((t.spec.algorithm.steps for t in trainings if t.metadata.name == manifest["name"]), 0)
