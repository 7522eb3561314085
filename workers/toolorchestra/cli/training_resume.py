"""`orchestra resume` of a training on a cluster: set `spec.suspend` to false."""

from __future__ import annotations

import typer

from toolorchestra.cli.cluster import errors_said
from toolorchestra.cli.following import follow_to_the_end
from toolorchestra.cli.place import Place


def resume_training(name: str, place: Place, *, wait: bool) -> None:
    """Continue a suspended training; otherwise print its state and the next step."""
    with errors_said():
        from toolorchestra.cluster_client.state import ENDED, message_of, next_step, state_of
        from toolorchestra.cluster_client.trainings import find, suspend

        kube = place.kube()
        training = find(kube, name, namespace=kube.namespace)
        state = state_of(training)
        if not training["spec"].get("suspend") or state in ENDED:
            typer.echo(f"{name} is {state}, not suspended: {message_of(training)}".rstrip(": "))
            if following := next_step(training):
                typer.echo(f"next: {following}")
            raise typer.Exit(0 if state != "Failed" else 1)
        training = suspend(kube, training, False)
        typer.echo(f"{name}: continuing from its last checkpoint")
    if wait:
        raise typer.Exit(follow_to_the_end(kube, training))
    typer.echo(f"follow it with: orchestra status {name} -n {kube.namespace} --watch")
