"""Finds a training's pods by role, and says why a pod does not run. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from toolorchestra.contract.labels import ATTEMPT_LABEL, COMPONENT_LABEL, COMPONENTS, Role

Json = Mapping[str, Any]
Pod = TypeVar("Pod", bound=Mapping[str, Any])


def role_of(pod: Json) -> Role | None:
    """Return the pod's role; None where it is not a training's pod."""
    component = (pod["metadata"].get("labels") or {}).get(COMPONENT_LABEL)
    return next((role for role, name in COMPONENTS.items() if name == component), None)


def of_role(pods: Sequence[Pod], role: Role) -> list[Pod]:
    """Return the role's pods of its newest attempt, sorted by name: older pods may still be terminating."""
    found = [pod for pod in pods if role_of(pod) == role]
    newest = max((_attempt(pod) for pod in found), default=0)
    return sorted((pod for pod in found if _attempt(pod) == newest), key=lambda pod: str(pod["metadata"]["name"]))


def _attempt(pod: Json) -> int:
    number = str((pod["metadata"].get("labels") or {}).get(ATTEMPT_LABEL, "0"))
    return int(number) if number.isdigit() else 0


def container_of(pod: Json) -> str:
    """Return the name of the main container: the one that is named like the component, else the first."""
    names = [str(one["name"]) for one in pod["spec"]["containers"]]
    component = (pod["metadata"].get("labels") or {}).get(COMPONENT_LABEL)
    return component if component in names else names[0]


def has_log(pod: Json, container: str) -> bool:
    """Return whether the container runs or has run."""
    status = _status(pod, container)
    state, before = status.get("state") or {}, status.get("lastState") or {}
    return any(part in state for part in ("running", "terminated")) or "terminated" in before


def runs(pod: Json, container: str) -> bool:
    """Return whether the container runs now."""
    return "running" in (_status(pod, container).get("state") or {})


def restarts(pod: Json, container: str) -> int:
    """Return how often the container was restarted in its pod."""
    return int(_status(pod, container).get("restartCount", 0))


def _status(pod: Json, container: str) -> Json:
    found = (pod.get("status") or {}).get("containerStatuses") or ()
    return next((one for one in found if one["name"] == container), {})


def is_over(pod: Json) -> bool:
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def waits_for(pod: Json) -> str:
    """Return why the pod does not run yet, with the reason that Kubernetes gives."""
    status = pod.get("status") or {}
    for one in (*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())):
        waiting = (one.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in (None, "PodInitializing"):
            return ": ".join(part for part in (waiting["reason"], waiting.get("message", "")) if part)
        if "running" in (one.get("state") or {}) and one in (status.get("initContainerStatuses") or ()):
            return f"its init container {one['name']} runs"
    for one in status.get("conditions") or ():
        if one["type"] == "PodScheduled" and one["status"] != "True":
            return f"{one.get('reason', 'not scheduled')}: {one.get('message', '')}".rstrip(": ")
    return str(status.get("phase") or "Pending")


def overview(pods: Sequence[Json]) -> Iterator[str]:
    """Yield a line per pod: name, role, phase, restarts, and what it waits for."""
    for pod in sorted(pods, key=lambda one: str(one["metadata"]["name"])):
        status, times = pod.get("status") or {}, restarts(pod, container_of(pod))
        again = f", restarted {times} times" if times else ""
        phase = str(status.get("phase") or "Pending")
        why = f" ({waits_for(pod)})" if phase == "Pending" else ""
        yield f"{pod['metadata']['name']:<40} {role_of(pod) or '':<8} {phase}{again}{why}"
