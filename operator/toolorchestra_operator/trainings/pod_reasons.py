"""Why pods do not come up, in the scheduler's and the kubelet's own words."""

from __future__ import annotations

from collections.abc import Sequence

from toolorchestra.api.conditions import Reason
from toolorchestra_operator.manifest import Manifest

_PULL = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull")
_BROKEN = ("CreateContainerConfigError", "CreateContainerError", "CrashLoopBackOff", "RunContainerError")


def obstacle(pods: Sequence[Manifest]) -> tuple[Reason, str] | None:
    """The first thing that keeps a pod from running; None where nothing does."""
    for pod in sorted(pods, key=lambda one: str(one["metadata"]["name"])):
        if found := _unschedulable(pod) or _waiting(pod):
            reason, message = found
            return reason, f"pod {pod['metadata']['name']}: {message}"
    return None


def _unschedulable(pod: Manifest) -> tuple[Reason, str] | None:
    for condition in (pod.get("status") or {}).get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return Reason.UNSCHEDULABLE, str(condition.get("message", ""))
    return None


def _waiting(pod: Manifest) -> tuple[Reason, str] | None:
    status = pod.get("status") or {}
    for container in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason, message = waiting.get("reason", ""), str(waiting.get("message", ""))
        if reason in _PULL:
            return Reason.IMAGE_PULL_FAILED, f"{reason}: {message or container.get('image', '')}"
        if reason in _BROKEN:
            last = ((container.get("lastState") or {}).get("terminated") or {}).get("message", "")
            return Reason.CLUSTER_STARTING, f"{reason}: {last or message}"
    return None
