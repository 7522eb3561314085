"""A scripted kubelet: it runs nothing, and says of every pod that it runs, until a head is told to end."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import Any

import urllib3.exceptions

from testbed.api import Api, Refused
from toolorchestra.contract.labels import ATTEMPT_LABEL, TRAINING_LABEL

TICK = 0.4
_STAMP = "2030-01-01T00:00:00Z"
ANY_ERROR = (Refused, urllib3.exceptions.HTTPError, OSError)
"""What the API server says while it is away, or when somebody was faster."""


Attempt = tuple[str, str, str]
"""Namespace, training, number."""


@dataclass
class Kubelet:
    """Pods are never bound to a node: so they go at once when they are deleted."""

    api: Api
    spaces: list[str]
    ends: dict[tuple[str, str, str], tuple[int, str]] = field(
        default_factory=dict[tuple[str, str, str], tuple[int, str]]
    )
    """How its head ends, and its last words. Absent: it runs."""

    async def serve(self) -> None:
        """Until it is cancelled."""
        while True:
            with contextlib.suppress(*ANY_ERROR):
                await asyncio.to_thread(self._look)
            await asyncio.sleep(TICK)

    def head_ends(self, space: str, name: str, attempt: int, code: int, message: str = "") -> None:
        self.ends[space, name, str(attempt)] = (code, message)

    def forget(self, space: str, name: str) -> None:
        """The next training of the name begins anew."""
        for key in [key for key in self.ends if key[:2] == (space, name)]:
            del self.ends[key]

    def _look(self) -> None:
        for pod in self.api.get("/api/v1/pods")["items"]:
            metadata, status = pod["metadata"], pod.get("status") or {}
            if metadata["namespace"] not in self.spaces or "deletionTimestamp" in metadata:
                continue
            labels = metadata.get("labels") or {}
            of = (metadata["namespace"], labels.get(TRAINING_LABEL, ""), labels.get(ATTEMPT_LABEL, ""))
            is_head = labels.get("app.kubernetes.io/component") == "head"
            with contextlib.suppress(Refused):
                if is_head and of in self.ends and status.get("phase") == "Running":
                    self._say(pod, _ended(pod, *self.ends[of]))
                elif status.get("phase") == "Pending":
                    self._say(pod, _runs(pod))

    def _say(self, pod: dict[str, Any], status: dict[str, Any]) -> None:
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
        self.api.merge(path, {"metadata": {"uid": metadata["uid"]}, "status": status})


def _containers(pod: dict[str, Any], state: dict[str, Any], *, ready: bool) -> list[dict[str, Any]]:
    common = {"image": "played:1", "imageID": "", "restartCount": 0, "ready": ready, "started": ready}
    return [{"name": one["name"], "state": state, **common} for one in pod["spec"]["containers"]]


def _runs(pod: dict[str, Any]) -> dict[str, Any]:
    kinds = ("PodScheduled", "Initialized", "ContainersReady", "Ready")
    conditions = [{"type": kind, "status": "True", "lastTransitionTime": _STAMP} for kind in kinds]
    running = _containers(pod, {"running": {"startedAt": _STAMP}}, ready=True)
    return {"phase": "Running", "startTime": _STAMP, "conditions": conditions, "containerStatuses": running}


def _ended(pod: dict[str, Any], code: int, message: str) -> dict[str, Any]:
    reason = "Completed" if code == 0 else "Error"
    ended = {"exitCode": code, "reason": reason, "message": message, "startedAt": _STAMP, "finishedAt": _STAMP}
    conditions = [
        {"type": kind, "status": "False", "lastTransitionTime": _STAMP} for kind in ("ContainersReady", "Ready")
    ]
    states = _containers(pod, {"terminated": ended}, ready=False)
    return {"phase": "Succeeded" if code == 0 else "Failed", "conditions": conditions, "containerStatuses": states}
