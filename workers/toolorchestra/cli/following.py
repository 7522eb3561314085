"""Follows a training on a cluster: prints a line per change. Ctrl-C ends the command, never the training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from toolorchestra.cli.cluster import errors_said

if TYPE_CHECKING:
    from toolorchestra.cluster_client.kube import Kube

LOOKED_AWAY = 130
"""Exit status after Ctrl-C: 128 + SIGINT."""


def follow_to_the_end(kube: Kube, training: dict[str, Any]) -> int:
    """Print the training's progress until it ends; return the exit status for how it ended."""
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
        typer.echo(f"the training continues; follow it with: orchestra status {name} -n {namespace} --watch")
        return LOOKED_AWAY
    return EXIT_CODES[state]
