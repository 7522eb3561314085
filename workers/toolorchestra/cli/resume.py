"""`orchestra resume RUN`: go on with a run from its last checkpoint."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from toolorchestra.cli.runs import find_run
from toolorchestra.cli.train import fail


def resume(run: Annotated[Path, typer.Argument(help="A run's folder, or its name under runs/.")]) -> None:
    """Go on with a run from its last complete checkpoint, as a new incarnation. Nothing accepted is lost."""
    from toolorchestra.cli.running import new_plan, run_to_the_end, with_seed
    from toolorchestra.local.lock import RunLock, RunLocked
    from toolorchestra.train.run_dir import RunDir

    folder = RunDir(find_run(run).root.resolve())
    manifest = folder.read_manifest()
    options = manifest["options"]
    try:
        RunLock(folder).check()
    except RunLocked as error:
        fail(str(error))
    plan = new_plan(
        [Path(path) for path in options["inputs"]],
        name=manifest["name"],
        simulator=Path(options["simulator"]) if options["simulator"] else None,
        time_scale=float(options["timeScale"]),
        volumes=[f"{claim}={path}" for claim, path in options["volumes"].items()],
        seed=None,
        env=os.environ,
        folder=Path(options["folder"]) if options.get("folder") else None,
    )
    plan = with_seed(plan, int(manifest["seed"]))
    typer.echo(f"going on with {folder.name}")
    run_to_the_end(folder, plan, console=Console())
