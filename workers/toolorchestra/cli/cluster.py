"""What all cluster commands share: options, connection, error handling.

Exit status: 0 success; 1 a problem of the cluster (not reachable, not authorised, not installed); 2 wrong input.
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
    Path, typer.Argument(help="A run's folder or its name under runs/; otherwise a training on the cluster.")
]
Context = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig.", metavar="NAME")]
Namespace = Annotated[
    str | None, typer.Option("-n", "--namespace", help="Namespace; default: the context's.", metavar="NAME")
]
LongNamespace = Annotated[
    str | None,
    typer.Option("--namespace", help="On a cluster: the namespace; default: the context's.", metavar="NAME"),
]
Kubeconfig = Annotated[
    Path | None,
    typer.Option(
        "--kubeconfig",
        help="Kubeconfig file; default: $KUBECONFIG, ~/.kube/config, or the pod's service account.",
        metavar="FILE",
    ),
]
Files = Annotated[
    list[Path] | None,
    typer.Option("-f", "--file", help="YAML file with resources, or a folder; can be repeated.", metavar="FILE"),
]
Output = Annotated[
    Literal["text", "json"],
    typer.Option("-o", "--output", help="Output format; json is for scripts.", metavar="text|json"),
]


def connected(*, kubeconfig: Path | None, context: str | None, namespace: str | None) -> Kube:
    """Return a client of the cluster; no request is sent yet.

    Raises ClusterError where no cluster is configured or the client library is not installed.
    """
    from toolorchestra.cluster_client.connection import connect

    return connect(kubeconfig=kubeconfig, context=context, namespace=namespace)


@contextmanager
def errors_said() -> Iterator[None]:
    """Turn a ClusterError into a message on stderr and the error's exit status."""
    try:
        yield
    except ClusterError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(error.status) from error
