"""`orchestra cancel` of a training on a cluster: make a last checkpoint, delete the resource, say what is kept."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import typer

from toolorchestra.cli.cluster import errors_said
from toolorchestra.cli.following import LOOKED_AWAY
from toolorchestra.cli.place import Place
from toolorchestra.cli.say import fail

if TYPE_CHECKING:
    from toolorchestra.cluster_client.kube import Kube

REACTION_SECONDS = 60.0
"""If the operator has not observed the change after this time, it counts as not running."""
LAST_SECONDS = 480.0
"""Limit for the last step and checkpoint: the head's grace period and a margin."""


def cancel_training(name: str, place: Place, *, wait: bool, yes: bool) -> None:
    """Delete the training; with `wait`, suspend it first, so that it writes a checkpoint."""
    with errors_said():
        from toolorchestra.cluster_client.retention import retained
        from toolorchestra.cluster_client.state import ENDED, state_of
        from toolorchestra.cluster_client.trainings import find
        from toolorchestra.kube.kinds import TRAININGS

        kube = place.kube()
        training = find(kube, name, namespace=kube.namespace)
        state, stays = state_of(training), retained(training)
        if state in ENDED:
            typer.echo(f"{name} is {state}: there is nothing to cancel; kubectl delete ot {name} -n {kube.namespace}")
            typer.echo(f"deletes the resource; {stays}")
            return
        typer.echo(f"cancelling {name} in namespace {kube.namespace} ({state}): {stays}")
        _confirm(name, yes=yes)
        if wait and state not in ("Pending", "Refused", "Suspended", "Ending"):
            _give_back(kube, training)
        kube.delete(TRAININGS, name, namespace=kube.namespace, uid=training["metadata"]["uid"])
        typer.echo(f"{name} is deleted; {stays}")


def _confirm(name: str, *, yes: bool) -> None:
    if yes:
        return
    try:
        confirmed = typer.confirm(f"cancel {name}?")
    except (typer.Abort, EOFError):
        fail("not confirmed: nothing was changed (--yes confirms in advance)")
    if not confirmed:
        typer.echo("nothing was changed")
        raise typer.Exit(0)


def _give_back(kube: Kube, training: dict[str, Any]) -> None:
    """Suspend the training, and wait until its last checkpoint is written and its pods are gone."""
    from toolorchestra.cluster_client.state import compute_is_back, message_of
    from toolorchestra.cluster_client.trainings import compute_left, seen, suspend

    name, namespace = training["metadata"]["name"], training["metadata"]["namespace"]
    training = suspend(kube, training, True)
    typer.echo("told it to stop, with a checkpoint (after Ctrl-C it stays suspended)")
    began, said = time.monotonic(), ""
    try:
        for now in seen(kube, training, say=typer.echo):
            if now is None or (compute_is_back(now) and not compute_left(kube, now)):
                return
            if (line := message_of(now)) != said:
                typer.echo(line)
                said = line
            _give_up(now, waited=time.monotonic() - began)
    except KeyboardInterrupt:
        typer.echo(f"{name} stays suspended; delete it with: orchestra cancel {name} -n {namespace}")
        typer.echo(f"or continue it with: orchestra resume {name} -n {namespace}")
        raise typer.Exit(LOOKED_AWAY) from None


def _give_up(training: dict[str, Any], *, waited: float) -> None:
    """Raise Unreachable where the operator does not react or the time limit is over."""
    from toolorchestra.cluster_client.errors import Unreachable

    name, namespace = training["metadata"]["name"], training["metadata"]["namespace"]
    at_once = f"orchestra cancel {name} -n {namespace} --no-wait deletes it now; work after the last checkpoint is lost"
    seen = int((training.get("status") or {}).get("observedGeneration") or 0)
    if waited > REACTION_SECONDS and seen < int(training["metadata"]["generation"]):
        raise Unreachable(f"the operator does not react (does it run?); {at_once}")
    if waited > LAST_SECONDS:
        raise Unreachable(f"its compute is not released after {LAST_SECONDS:.0f} seconds; {at_once}")
