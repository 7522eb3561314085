"""Why replicas are missing: the message of the scheduler, the kubelet, or the container that ended. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from toolorchestra.api.conditions import Reason
from toolorchestra_operator.kubernetes.manifest import Manifest

_PULL: Final = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError")
_BROKEN: Final = (
    "CreateContainerConfigError",
    "CreateContainerError",
    "CrashLoopBackOff",
    "RunContainerError",
    "StartError",
)
_WORDS: Final = 500
"""Most characters of a container's last output: the end, which has the error."""


@dataclass(frozen=True)
class Obstacle:
    """The reason and message why a replica is not ready."""

    reason: Reason
    message: str


def obstacle(deployment: Manifest | None, pods: Sequence[Manifest]) -> Obstacle | None:
    """Return the first obstacle, of the pods in the order of their names, then of the Deployment; None: only time."""
    for pod in sorted(pods, key=lambda one: str(one["metadata"]["name"])):
        if pod["metadata"].get("deletionTimestamp") or _is_ready(pod):
            continue
        if found := _not_scheduled(pod) or _in_container(pod):
            return Obstacle(found.reason, f"pod {pod['metadata']['name']}: {found.message}")
    return _not_made(deployment)


def _is_ready(pod: Manifest) -> bool:
    return _condition(pod, "Ready").get("status") == "True"


def _condition(thing: Manifest, kind: str) -> Mapping[str, Any]:
    conditions = (thing.get("status") or {}).get("conditions") or ()
    return next((one for one in conditions if one["type"] == kind), {})


def _not_scheduled(pod: Manifest) -> Obstacle | None:
    scheduled = _condition(pod, "PodScheduled")
    match scheduled.get("reason"):
        case "Unschedulable":
            return Obstacle(Reason.UNSCHEDULABLE, str(scheduled.get("message") or "no node fits"))
        case "SchedulingGated":
            gates = ", ".join(gate["name"] for gate in (pod.get("spec") or {}).get("schedulingGates") or ())
            return Obstacle(Reason.QUOTA_PENDING, f"held back by {gates or 'a gate'}: quota is awaited")
    return None


def _in_container(pod: Manifest) -> Obstacle | None:
    status = pod.get("status") or {}
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        state = container.get("state") or {}
        waiting, ended = state.get("waiting") or {}, state.get("terminated") or {}
        last = (container.get("lastState") or {}).get("terminated") or {}
        reason, message = str(waiting.get("reason", "")), str(waiting.get("message", ""))
        if reason in _PULL:
            return Obstacle(Reason.IMAGE_PULL_FAILED, f"{reason}: {message or container.get('image', '')}")
        if reason in _BROKEN:
            return Obstacle(Reason.REPLICAS_MISSING, f"{reason}: {_last_words(last) or message}")
        if ended.get("exitCode"):
            return Obstacle(Reason.REPLICAS_MISSING, _last_words(ended))
        if last.get("exitCode"):
            return Obstacle(Reason.REPLICAS_MISSING, f"starts again; before, {_last_words(last)}")
    return None


def _last_words(ended: Mapping[str, Any]) -> str:
    if not ended:
        return ""
    said = str(ended.get("message") or ended.get("reason") or "").strip()[-_WORDS:]
    return f"it ended with {ended.get('exitCode', '?')}" + (f": {said}" if said else "")


def _not_made(deployment: Manifest | None) -> Obstacle | None:
    """Return the refusal of pods by pod security, a quota or a webhook, which only the Deployment reports."""
    failed = _condition(deployment or {}, "ReplicaFailure")
    if failed.get("status") == "True":
        return Obstacle(Reason.REPLICAS_MISSING, f"pods cannot be made: {failed.get('message', '')}")
    return None
