"""`orchestra cancel` of a training on a cluster: a last checkpoint, then the resource goes; what is kept is said."""

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

DEAF_SECONDS = 60.0
"""An operator that has not seen the change after this long is not there."""
LAST_SECONDS = 480.0
"""The head's grace for a step and a checkpoint, and a little more."""


def cancel_training(name: str, place: Place, *, wait: bool, yes: bool) -> None:
    """With `wait` the compute is given back first, with a checkpoint; else the training is deleted at once."""
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
            typer.echo(f"takes the resource away; {stays}")
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
        fail("nobody said yes: nothing was done (--yes says it beforehand)")
    if not confirmed:
        typer.echo("nothing was done")
        raise typer.Exit(0)


def _give_back(kube: Kube, training: dict[str, Any]) -> None:
    """Suspend it, and wait for its last checkpoint."""
    from toolorchestra.cluster_client.state import compute_is_back, message_of
    from toolorchestra.cluster_client.trainings import compute_left, seen, suspend

    name, namespace = training["metadata"]["name"], training["metadata"]["namespace"]
    training = suspend(kube, training, True)
    typer.echo("told it to stop, with a checkpoint (Ctrl-C: it stays suspended)")
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
        typer.echo(f"or go on with: orchestra resume {name} -n {namespace}")
        raise typer.Exit(LOOKED_AWAY) from None


def _give_up(training: dict[str, Any], *, waited: float) -> None:
    """Ends the command where nobody reacts, or it takes longer than it may."""
    from toolorchestra.cluster_client.errors import Unreachable

    name, namespace = training["metadata"]["name"], training["metadata"]["namespace"]
    at_once = (
        f"orchestra cancel {name} -n {namespace} --no-wait deletes it now; what follows the last checkpoint is lost"
    )
    seen = int((training.get("status") or {}).get("observedGeneration") or 0)
    if waited > DEAF_SECONDS and seen < int(training["metadata"]["generation"]):
        raise Unreachable(f"the operator does not react (does it run?); {at_once}")
    if waited > LAST_SECONDS:
        raise Unreachable(f"its compute is not given back after {LAST_SECONDS:.0f} seconds; {at_once}")
