"""`orchestra suspend`: release a training's compute, after a checkpoint; `orchestra resume` continues it."""

from __future__ import annotations

from typing import Annotated

import typer

from toolorchestra.cli.cluster import Context, Kubeconfig, Namespace, errors_said
from toolorchestra.cli.place import Place


def suspend(
    name: Annotated[str, typer.Argument(help="A training on the cluster.", metavar="NAME")],
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    wait: Annotated[bool, typer.Option("-w", "--wait", help="Wait until the compute is released.")] = False,
) -> None:
    """Release a training's compute after a checkpoint: its pods are deleted; its storage and its streams stay.

    Example: orchestra suspend router -n research && orchestra resume router -n research
    """
    with errors_said():
        from toolorchestra.cluster_client.state import ENDED, state_of
        from toolorchestra.cluster_client.trainings import find, follow
        from toolorchestra.cluster_client.trainings import suspend as set_suspend

        kube = Place(kubeconfig, context, namespace).kube()
        training = find(kube, name, namespace=kube.namespace)
        if (state := state_of(training)) in ENDED:
            typer.echo(f"{name} is {state}: there is nothing to suspend")
            return
        if training["spec"].get("suspend"):
            typer.echo(f"{name} is suspended already")
        else:
            training = set_suspend(kube, training, True)
            typer.echo(
                f"{name}: suspending, with a checkpoint; continue with: orchestra resume {name} -n {kube.namespace}"
            )
        if wait:
            ended = follow(kube, training, say=lambda line: typer.echo(f"{name}: {line}"))
            raise typer.Exit(0 if ended == "Suspended" else 1)
