"""`orchestra status`: show the progress of a local run, and whether a process still runs it; or a cluster training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from toolorchestra.cli.cluster import Context, Kubeconfig, Namespace, Output
from toolorchestra.cli.place import Place
from toolorchestra.cli.runs import RUNS, UNDER_WAY, clock, find_run
from toolorchestra.cli.say import fail, say
from toolorchestra.cluster_client.connection import reachable_config
from toolorchestra.local.lock import RunLock
from toolorchestra.runs.run_dir import RunDir


def status(
    run: Annotated[
        Path | None,
        typer.Argument(
            help="A run's folder or its name under runs/; otherwise a training on the cluster; default: all of them."
        ),
    ] = None,
    folder: Annotated[Path, typer.Option("--runs", help="The folder that holds the runs.")] = RUNS,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    output: Output = "text",
    watch: Annotated[bool, typer.Option("-w", "--watch", help="On a cluster: print again at every change.")] = False,
    all_namespaces: Annotated[
        bool, typer.Option("-A", "--all-namespaces", help="On a cluster: trainings of all namespaces.")
    ] = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show a run's progress, what it has spent, and what to do next.

    A name that is not a local run is a training on the cluster. Without a name, the command prints a table of all
    trainings on the cluster.

    Example: orchestra status router -n research --watch
    """
    place, as_json = Place(kubeconfig, context, namespace), as_json or output == "json"
    if run is None and not place.asked and not reachable_config():
        fail("name a run: orchestra status RUN (orchestra runs list shows them); no cluster is configured")
    if run is None or place.holds(run, runs=folder):
        from toolorchestra.cli.training_status import show

        name = None if run is None else str(run)
        show(name, place, as_json=as_json, watch=watch, all_namespaces=all_namespaces)
        return
    if watch:
        fail(f"--watch works for trainings on a cluster; for a local run: orchestra logs {run} controller -f")
    found = find_run(run, folder=folder)
    row = state_row(found)
    if as_json:
        typer.echo(json.dumps(row, indent=1))
        return
    for label, text in lines(row):
        say(f"{label:<12} {text}".rstrip())


def state_row(run: RunDir) -> dict[str, Any]:
    """Return status.json, plus the run's folder, the process id of its supervisor (None: no process), and `next`."""
    holder, found = RunLock(run).holder(), run.read_status()
    state = found.get("state", "Starting")
    return {
        "run": run.name,
        "folder": str(run.root),
        **found,
        "state": state,
        "supervisor": holder,
        "died": holder is None and state in UNDER_WAY,
        "next": next_step(run, state=state, running=holder is not None),
    }


def next_step(run: RunDir, *, state: str, running: bool) -> str:
    """Return what a person can do now, with the command for it."""
    resume = f"orchestra resume {run.root}"
    if running:
        return f"orchestra logs {run.root}; orchestra cancel {run.root}"
    if state in UNDER_WAY:
        return f"the process that ran it is gone: continue from the last checkpoint with: {resume}"
    if state == "Paused":
        return f"do what the message says, then continue with: {resume}"
    if state == "Complete":
        return f"orchestra report {run.root}"
    return f"continue from the last checkpoint with: {resume}"


def lines(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the status for people, as pairs of label and text."""
    yield row["run"], f"{row['state']}{' (died: no process runs it)' if row['died'] else ''}"
    yield from _if_said("message", row.get("message"))
    if "steps" in row:
        yield "step", f"{row.get('step', 0)} of {row['steps']} ({row.get('progressPercentage', 0)} %)"
    yield from _if_said("incarnation", row.get("incarnation"))
    yield from _if_said("policy", row.get("policyVersion"))
    for name, value in row.get("metrics", {}).items():
        yield name.replace("_", " "), f"{value:.6g}"
    if (spent := row.get("spentUSD")) is not None:
        unbilled = row.get("reservedUSD", "0")
        more = f", and at most ${unbilled} that is reserved and not billed yet" if float(unbilled) else ""
        yield "spent", f"${spent}{more}"
    for name, engine in sorted(row.get("engines", {}).items()):
        restarts = f", restarted {engine['restarts']} times" if engine.get("restarts") else ""
        version = f" version {engine['version']}" if engine.get("version") else ""
        yield name, f"{engine['state']}{version}{restarts} {engine.get('serves', '')}".rstrip()
    yield "supervisor", "none" if row["supervisor"] is None else f"process {row['supervisor']}"
    yield from _if_said("updated", clock(row.get("updated")))
    yield "next", row["next"]


def _if_said(label: str, value: Any) -> Iterator[tuple[str, str]]:
    if value not in (None, ""):
        yield label, str(value)
