"""`orchestra logs`: the end of the log of a run's process, or of a training's pods; or all that comes."""

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
        typer.Argument(help="controller, worker-0, engine-0, …; without it: the list of them. On a cluster: a pod."),
    ] = None,
    lines: Annotated[int, typer.Option("--lines", min=0, help="Lines from the end.")] = 50,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on printing until the run ends.")] = False,
    folder: Annotated[Path, typer.Option("--runs", help="The folder that holds the runs.")] = RUNS,
    role: Annotated[
        Role, typer.Option("--role", help="On a cluster: whose pods. The head runs the controller.")
    ] = "head",
    previous: Annotated[
        bool, typer.Option("-p", "--previous", help="On a cluster: of the container's last life.")
    ] = False,
    short: Annotated[
        list[str] | None,
        typer.Option("-n", help="A number: --lines, as of tail. Else: --namespace, as of kubectl.", metavar="N|NAME"),
    ] = None,
    namespace: LongNamespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Print the end of a process's log; without PROCESS, say which processes have one.

    A name that is no run here is a training on the cluster: the logs of its pods, by role.

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
        typer.echo(f"error: {process}: no log of that name; there are: {', '.join(files)}", err=True)
        raise typer.Exit(2)
    show = LogText()
    with chosen.open("rb") as file:
        for line in deque(file, maxlen=lines):
            typer.echo(show(line), nl=False)
        if follow:
            for data in new_data(file, path=chosen, run=found):
                typer.echo(show(data), nl=False)


def log_files(run: RunDir) -> Mapping[str, Path]:
    """Logs by process name: those under logs/, and the message server's."""
    found = {path.stem: path for path in sorted(run.logs.glob("*.log"))}
    server = run.root / "nats" / "nats-server.log"
    return found | ({server.stem: server} if server.is_file() else {})


def new_data(file: BinaryIO, *, path: Path, run: RunDir) -> Iterator[bytes]:
    """What is written from here on, until nobody runs the run. A restarted engine begins its log anew, and so do we."""
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
