"""`orchestra status` on a cluster: show a table of trainings, or one in detail; once, or at every change."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import typer

from toolorchestra.cli.cluster import errors_said
from toolorchestra.cli.following import LOOKED_AWAY, follow_to_the_end
from toolorchestra.cli.place import Place
from toolorchestra.cli.say import say

if TYPE_CHECKING:
    from toolorchestra.cluster_client.kube import Kube

POLL_SECONDS = 2.0


def show(name: str | None, place: Place, *, as_json: bool, watch: bool, all_namespaces: bool = False) -> None:
    """Print the table or one training. With `watch` on one training, its end gives the exit status."""
    with errors_said():
        kube = place.kube()
        if name is None:
            _show_all(kube, as_json=as_json, watch=watch, namespace="" if all_namespaces else kube.namespace)
            return
        training = _show_one(kube, name, as_json=as_json)
    if watch:
        raise typer.Exit(follow_to_the_end(kube, training))


def _show_one(kube: Kube, name: str, *, as_json: bool) -> dict[str, Any]:
    from toolorchestra.cluster_client.format import lines
    from toolorchestra.cluster_client.state import state_row
    from toolorchestra.cluster_client.trainings import events, find

    training = find(kube, name, namespace=kube.namespace)
    if as_json:
        typer.echo(json.dumps(state_row(training), indent=1))
        return training
    for label, text in lines(state_row(training), events(kube, training), now=datetime.now(UTC)):
        say(f"{label:<12} {text}".rstrip())
    return training


def _show_all(kube: Kube, *, as_json: bool, watch: bool, namespace: str) -> None:
    """Print the table; with `watch`, print it again at every change, and wait while the API server is unreachable."""
    from toolorchestra.cluster_client.errors import Unreachable

    typer.echo(shown := _all(kube, as_json=as_json, namespace=namespace))
    try:
        while watch:
            time.sleep(POLL_SECONDS)
            try:
                text = _all(kube, as_json=as_json, namespace=namespace)
            except Unreachable as error:
                text = f"{error}; waiting for it"
            if text != shown:
                typer.echo(shown := text)
    except KeyboardInterrupt:
        raise typer.Exit(LOOKED_AWAY) from None


def _all(kube: Kube, *, as_json: bool, namespace: str) -> str:
    from toolorchestra.cluster_client.format import table
    from toolorchestra.cluster_client.state import state_row
    from toolorchestra.kube.kinds import TRAININGS

    found = kube.list(TRAININGS, namespace=namespace)
    if as_json:
        return json.dumps([state_row(one) for one in found], indent=1)
    if not found:
        where = f"in namespace {namespace}" if namespace else "in the cluster"
        return f"no trainings {where} (submit one with: orchestra submit -f FILE)"
    return "\n".join(table(found, now=datetime.now(UTC), namespaces=not namespace))
