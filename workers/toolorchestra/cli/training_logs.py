"""`orchestra logs` of a training on a cluster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import typer

from toolorchestra.cli.cluster import errors_said
from toolorchestra.cli.following import LOOKED_AWAY
from toolorchestra.cli.place import Place
from toolorchestra.contract.labels import Role
from toolorchestra.visible import LogText


def print_logs(
    name: str, place: Place, *, role: Role, pod: str | None, lines: int, follow: bool, previous: bool
) -> None:
    """Print the logs of the chosen pods; where there is none, list the training's pods and end with status 2."""
    with errors_said():
        from toolorchestra.cluster_client.logs import Follower, choose, pods_of, write_logs
        from toolorchestra.cluster_client.trainings import find

        kube = place.kube()
        training = find(kube, name, namespace=kube.namespace)
        pods = pods_of(kube, name, namespace=kube.namespace)
        chosen = choose(role, pod)
        if not chosen(pods) and not (follow and pod is None):
            _none(training, pods, wanted=f"pod {pod}" if pod else f"{role}'s pod")
        write = _writer()
        try:
            if follow:
                follower = Follower(kube, write, _say, lines)
                follower.follow(name, namespace=kube.namespace, chosen=chosen)
            else:
                write_logs(kube, chosen(pods), write=write, say=_say, tail=lines, previous=previous)
        except KeyboardInterrupt:
            raise typer.Exit(LOOKED_AWAY) from None


def _none(training: dict[str, Any], pods: list[dict[str, Any]], *, wanted: str) -> NoReturn:
    from toolorchestra.cluster_client.pods import overview
    from toolorchestra.cluster_client.retention import claim_of, folder_of

    typer.echo(f"error: there is no {wanted} of {training['metadata']['name']}", err=True)
    for line in overview(pods):
        typer.echo(f"  {line}", err=True)
    if not pods and (claim := claim_of(training)):
        where = f"PersistentVolumeClaim {claim}, folder {folder_of(training)}/logs"
        typer.echo(f"  it has no pods now; the logs of its processes are kept in {where}", err=True)
    raise typer.Exit(2)


def _writer() -> Callable[[bytes], None]:
    show = LogText()
    return lambda data: typer.echo(show(data), nl=False)


def _say(text: str) -> None:
    typer.echo(text, err=True)
