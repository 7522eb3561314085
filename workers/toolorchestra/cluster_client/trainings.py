"""Trainings on a cluster: finds them by name (with a hint for a wrong name), suspends them, follows them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from toolorchestra.api.explain import did_you_mean
from toolorchestra.cluster_client.errors import ClusterError, NotAuthorised, NotFound, Unreachable
from toolorchestra.cluster_client.format import event_time
from toolorchestra.cluster_client.state import State, message_of, state_of, steps_of
from toolorchestra.contract.labels import TRAINING_LABEL
from toolorchestra.kube.kinds import CORE_EVENTS, PODS, TRAININGS

if TYPE_CHECKING:
    from toolorchestra.cluster_client.kube import Kube

Json = dict[str, Any]
POLL_SECONDS = 2.0
HEAL_SECONDS = 30.0
"""How long a training may stay refused before `follow` ends: a pool that it needs may appear a moment later."""
Say = Callable[[str], None]


def find(kube: Kube, name: str, *, namespace: str) -> Json:
    """Return the training. NotFound names similar trainings, or the namespace that has one of this name."""
    try:
        return kube.get(TRAININGS, name, namespace=namespace)
    except NotFound as error:
        raise NotFound(
            f"there is no OrchestratorTraining {name} in namespace {namespace}; {_hint(kube, name, namespace)}"
        ) from error


def _hint(kube: Kube, name: str, namespace: str) -> str:
    try:
        elsewhere = [one["metadata"]["namespace"] for one in kube.list(TRAININGS, fields=f"metadata.name={name}")]
        if elsewhere:
            return f"there is one in: {', '.join(elsewhere)} (-n {elsewhere[0]})"
    except ClusterError:
        pass  # the user may have rights in this namespace only
    try:
        names = [one["metadata"]["name"] for one in kube.list(TRAININGS, namespace=namespace)]
    except NotAuthorised as error:
        return str(error)
    return did_you_mean(name, names) if names else "there are none"


def events(kube: Kube, training: Json, *, last: int = 6) -> list[Json]:
    """Return the last events of the training, the oldest first; none where the user may not list events."""
    metadata = training["metadata"]
    fields = f"involvedObject.kind=OrchestratorTraining,involvedObject.name={metadata['name']}"
    try:
        found = kube.list(CORE_EVENTS, namespace=metadata["namespace"], fields=fields)
    except NotAuthorised:
        return []
    ours = [one for one in found if one["involvedObject"].get("uid") in (None, metadata["uid"])]
    return sorted(ours, key=event_time)[-last:]


def suspend(kube: Kube, training: Json, wanted: bool) -> Json:
    """Set `spec.suspend` of the training with this UID; a newer training of the same name is a conflict."""
    metadata = training["metadata"]
    change = {"metadata": {"uid": metadata["uid"]}, "spec": {"suspend": wanted}}
    return kube.patch(TRAININGS, metadata["name"], change, namespace=metadata["namespace"])


def compute_left(kube: Kube, training: Json) -> list[str]:
    """Return the names of the training's unfinished pods; none where the user may not list pods."""
    metadata = training["metadata"]
    try:
        pods = kube.list(PODS, namespace=metadata["namespace"], labels=f"{TRAINING_LABEL}={metadata['name']}")
    except NotAuthorised:
        return []
    return [
        one["metadata"]["name"] for one in pods if (one.get("status") or {}).get("phase") not in ("Succeeded", "Failed")
    ]


def seen(
    kube: Kube, training: Json, *, say: Say, poll: float = POLL_SECONDS, sleep: Callable[[float], None] = time.sleep
) -> Iterator[Json | None]:
    """Poll the training and yield it each time; yield None and end where it is deleted or replaced by another one.

    While the API server does not answer, it waits, and says so once.
    """
    metadata, silent = training["metadata"], False
    while True:
        try:
            now = kube.find(TRAININGS, metadata["name"], namespace=metadata["namespace"])
        except Unreachable as error:
            if not silent:
                say(f"{error}; waiting for it")
            silent = True
        else:
            silent = False
            if now is None or now["metadata"]["uid"] != metadata["uid"]:
                yield None
                return
            yield now
        sleep(poll)


def line_of(training: Json) -> str:
    """Return the training's progress in one line."""
    state, message, step = state_of(training), message_of(training), (training.get("status") or {}).get("step")
    steps = f"step {step} of {steps_of(training) or '?'}" if step is not None else ""
    if state == "Running":
        return f"Running: {steps or message}"
    return ": ".join(part for part in (state, message) if part)


def follow(
    kube: Kube,
    training: Json,
    *,
    say: Say,
    until: frozenset[State] = frozenset({"Complete", "Failed", "Paused", "Suspended"}),
    poll: float = POLL_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> State:
    """Print every change until the training is in one of the states `until`, is deleted ("Ending") or stays refused.

    Return the last state.
    """
    said, refused_since = "", None
    for now in seen(kube, training, say=say, poll=poll, sleep=sleep):
        if now is None:
            say("the training was deleted")
            return "Ending"
        if (line := line_of(now)) != said:
            say(line)
            said = line
        state = state_of(now)
        if state in until:
            return state
        refused_since = (refused_since or clock()) if state == "Refused" else None
        if refused_since is not None and clock() - refused_since > HEAL_SECONDS:
            return "Refused"
    raise AssertionError("`seen` ends only after it yields None")
