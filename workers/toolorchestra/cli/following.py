"""Following a training on a cluster from a terminal: a line per change; Ctrl-C stops looking, never the training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from toolorchestra.cli.cluster import errors_said

if TYPE_CHECKING:
    from toolorchestra.cluster_client.kube import Kube

LOOKED_AWAY = 130


def follow_to_the_end(kube: Kube, training: dict[str, Any]) -> int:
    """The exit status that says how it ended."""
    from toolorchestra.cluster_client.state import EXIT_CODES, next_step
    from toolorchestra.cluster_client.trainings import find, follow

    metadata = training["metadata"]
    name, namespace = metadata["name"], metadata["namespace"]
    try:
        with errors_said():
            state = follow(kube, training, say=lambda line: typer.echo(f"{name}: {line}"))
            if state not in ("Ending",) and (following := next_step(find(kube, name, namespace=namespace))):
                typer.echo(f"next: {following}")
    except KeyboardInterrupt:
        typer.echo(f"it goes on; look again with: orchestra status {name} -n {namespace} --watch")
        return LOOKED_AWAY
    return EXIT_CODES[state]
