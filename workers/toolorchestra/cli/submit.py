"""`orchestra submit`: apply trainings and pools to a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from toolorchestra.cli.cluster import Context, Files, Kubeconfig, Namespace, connected, errors_said
from toolorchestra.cli.documents import read
from toolorchestra.cli.following import follow_to_the_end

if TYPE_CHECKING:
    from collections.abc import Sequence

    from toolorchestra.cluster_client.kube import Kube


def submit(
    files: Files = None,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    wait: Annotated[bool, typer.Option("-w", "--wait", help="Follow the trainings until they end.")] = False,
    force: Annotated[
        bool, typer.Option("--force-conflicts", help="Take over fields that another field manager owns.")
    ] = False,
) -> None:
    """Apply all resources of the files to a cluster: server-side, pools first. A second run changes what differs.

    Where the cluster would refuse one of them, nothing is applied. With --wait, the exit status is that of the
    training: 0 Complete, 1 Failed or Refused, 75 Paused. Ctrl-C ends the command, never the training.

    Example: orchestra submit -f pools.yaml -f training.yaml -n research --wait
    """
    with errors_said():
        kube = connected(kubeconfig=kubeconfig, context=context, namespace=namespace)
        documents = read(files, namespace=namespace, default=kube.namespace, resolve=False)
        for subject in documents.local:
            typer.echo(f"{subject}: not sent, because this kind is for local runs only")
        live = list(_apply(kube, [one.manifest for one in documents.all], force=force))
    trainings = [one for one in live if one["kind"] == "OrchestratorTraining"]
    if wait:
        raise typer.Exit(max((follow_to_the_end(kube, one) for one in trainings), default=0))
    for one in trainings:
        metadata = one["metadata"]
        typer.echo(f"follow it with: orchestra status {metadata['name']} -n {metadata['namespace']} --watch")


def _apply(kube: Kube, manifests: Sequence[dict[str, Any]], *, force: bool) -> list[dict[str, Any]]:
    from toolorchestra.cluster_client.errors import Conflicting
    from toolorchestra.cluster_client.submission import submit as submit_all

    found = []
    try:
        for applied in submit_all(kube, manifests, force=force):
            typer.echo(str(applied))
            found.append(dict(applied.live))
    except Conflicting as error:
        raise Conflicting(
            f"{error}; remove the fields from the file, or take them over with --force-conflicts"
        ) from error
    return found
