"""`orchestra cancel`: end a local run as Ctrl-C on its terminal does, or a training on a cluster."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

from toolorchestra.cli.cluster import Context, Kubeconfig, Namespace
from toolorchestra.cli.place import Place
from toolorchestra.cli.runs import RUNS, find_run
from toolorchestra.cli.status import next_step
from toolorchestra.local.lock import RunLock
from toolorchestra.runs.run_dir import RunDir

POLL_SECONDS = 0.2


def cancel(
    run: Annotated[
        Path, typer.Argument(help="A run's folder or its name under runs/; otherwise a training on the cluster.")
    ],
    folder: Annotated[Path, typer.Option("--runs", help="The folder that holds the runs.")] = RUNS,
    wait: Annotated[
        bool, typer.Option(help="Wait for the end. On a cluster, --no-wait deletes the training without a checkpoint.")
    ] = True,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="On a cluster: do not ask for confirmation.")] = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """End a local run or a training on a cluster.

    A local run finishes its step, writes a checkpoint and stops. A second `orchestra cancel` stops it at once.

    A training on a cluster is suspended, with a checkpoint, and then deleted. Before it asks for confirmation, the
    command says what is kept.

    Example: orchestra cancel router -n research --yes
    """
    place = Place(kubeconfig, context, namespace)
    if place.holds(run, runs=folder):
        from toolorchestra.cli.training_cancel import cancel_training

        cancel_training(str(run), place, wait=wait, yes=yes)
        return
    found = find_run(run, folder=folder)
    holder = RunLock(found).holder()
    if holder is None:
        state = found.read_status().get("state", "Starting")
        typer.echo(f"{found.root} is not running ({state}); {next_step(found, state=state, running=False)}")
        return
    with contextlib.suppress(ProcessLookupError):  # the process has just ended by itself
        os.kill(holder, signal.SIGTERM)
    typer.echo(f"told process {holder} to stop after this step, with a checkpoint (cancel again to stop at once)")
    if wait:
        _wait(found, holder=holder)


def _wait(run: RunDir, *, holder: int) -> None:
    """Wait until the run's lock is free; print the progress from status.json whenever it changes."""
    said = ""
    while RunLock(run).holder() == holder:
        status = run.read_status()
        now = f"step {status.get('step', 0)} of {status.get('steps', '?')}: {status.get('message') or 'under way'}"
        if now != said:
            typer.echo(now)
            said = now
        time.sleep(POLL_SECONDS)
    state = run.read_status().get("state", "Starting")
    typer.echo(f"{state}: {next_step(run, state=state, running=False)}")
