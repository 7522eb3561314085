"""`orchestra logs`: print or follow the log of a run's process, or the logs of a training's pods."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from toolorchestra.cli.cluster import Context, Kubeconfig, LongNamespace, RunOrTraining
from toolorchestra.cli.place import Place
from toolorchestra.cli.runs import RUNS, clock, find_run
from toolorchestra.contract.labels import Role
from toolorchestra.local.lock import RunLock
from toolorchestra.runs.run_dir import RunDir
from toolorchestra.visible import LogText

POLL_SECONDS = 0.2


def logs(
    run: RunOrTraining,
    process: Annotated[
        str | None,
        typer.Argument(help="controller, worker-0, engine-0, …; default: list them. On a cluster: a pod's name."),
    ] = None,
    lines: Annotated[int, typer.Option("--lines", min=0, help="How many lines from the end to print.")] = 50,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Print new lines until the run ends.")] = False,
    folder: Annotated[Path, typer.Option("--runs", help="The folder that holds the runs.")] = RUNS,
    role: Annotated[
        Role, typer.Option("--role", help="On a cluster: the role of the pods. The head runs the controller.")
    ] = "head",
    previous: Annotated[
        bool, typer.Option("-p", "--previous", help="On a cluster: the logs from before the container's last restart.")
    ] = False,
    short: Annotated[
        list[str] | None,
        typer.Option(
            "-n", help="A number means --lines, as in tail; a name means --namespace, as in kubectl.", metavar="N|NAME"
        ),
    ] = None,
    namespace: LongNamespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Print the end of a process's log; without PROCESS, list the processes that have a log.

    A name that is not a local run is a training on the cluster: the command prints the logs of its pods, by role.

    Example: orchestra logs router -n research --role engine -f
    """
    for value in short or ():
        lines, namespace = (int(value), namespace) if value.isdigit() else (lines, value)
    place = Place(kubeconfig, context, namespace)
    if place.holds(run, runs=folder):
        from toolorchestra.cli.training_logs import print_logs

        print_logs(str(run), place, role=role, pod=process, lines=lines, follow=follow, previous=previous)
        return
    found = find_run(run, folder=folder)
    files = log_files(found)
    if not files:
        typer.echo(f"error: {found.root}: no process of this run has written a log yet", err=True)
        raise typer.Exit(2)
    if process is None and len(files) > 1:
        for name, path in files.items():
            typer.echo(f"{name:<14} {path.stat().st_size:>10} bytes  {clock(path.stat().st_mtime)}  {path}")
        return
    chosen = files.get(process) if process is not None else next(iter(files.values()))
    if chosen is None:
        typer.echo(f"error: {process}: no log of that name; the run has: {', '.join(files)}", err=True)
        raise typer.Exit(2)
    show = LogText()
    with chosen.open("rb") as file:
        for line in deque(file, maxlen=lines):
            typer.echo(show(line), nl=False)
        if follow:
            for data in new_data(file, path=chosen, run=found):
                typer.echo(show(data), nl=False)


def log_files(run: RunDir) -> Mapping[str, Path]:
    """Return the run's log files by process name: those under logs/, and that of nats-server."""
    found = {path.stem: path for path in sorted(run.logs.glob("*.log"))}
    server = run.root / "nats" / "nats-server.log"
    return found | ({server.stem: server} if server.is_file() else {})


def new_data(file: BinaryIO, *, path: Path, run: RunDir) -> Iterator[bytes]:
    """Yield what is appended to the log until no process holds the run's lock.

    A restarted engine truncates its log; reading then starts again at the beginning.
    """
    while True:
        ended = RunLock(run).holder() is None
        if path.stat().st_size < file.tell():
            file.seek(0)
        if data := file.read():
            yield data
        elif ended:
            return
        else:
            time.sleep(POLL_SECONDS)
