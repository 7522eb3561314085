"""What every command about a cluster shares: its options, its connection, how it ends when something is wrong.

Exit status: 0 done, 1 something about the cluster (not reachable, not authorised, not installed), 2 the input.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from toolorchestra.cluster_client.errors import ClusterError

if TYPE_CHECKING:
    from toolorchestra.cluster_client.kube import Kube

RunOrTraining = Annotated[
    Path, typer.Argument(help="A run's folder, or its name under runs/; else a training on the cluster.")
]
Context = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig.", metavar="NAME")]
Namespace = Annotated[
    str | None, typer.Option("-n", "--namespace", help="Namespace; else the context's.", metavar="NAME")
]
LongNamespace = Annotated[
    str | None, typer.Option("--namespace", help="On a cluster; else the context's.", metavar="NAME")
]
Kubeconfig = Annotated[
    Path | None,
    typer.Option(
        "--kubeconfig", help="Else $KUBECONFIG, ~/.kube/config, or the pod's service account.", metavar="FILE"
    ),
]
Files = Annotated[
    list[Path] | None,
    typer.Option("-f", "--file", help="YAML with resources, or a folder; may be given again.", metavar="FILE"),
]
Output = Annotated[
    Literal["text", "json"], typer.Option("-o", "--output", help="json: for scripts.", metavar="text|json")
]


def connected(*, kubeconfig: Path | None, context: str | None, namespace: str | None) -> Kube:
    """The cluster; nothing is asked of it yet. ClusterError: there is none, or no client library."""
    from toolorchestra.cluster_client.connection import connect

    return connect(kubeconfig=kubeconfig, context=context, namespace=namespace)


@contextmanager
def errors_said() -> Iterator[None]:
    """Ends the command where the cluster says no: what is wrong, what to do, and the status."""
    try:
        yield
    except ClusterError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.status) from error
