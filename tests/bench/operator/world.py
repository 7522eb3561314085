"""The benchmark's cluster: what is submitted, and the status that Kubernetes' controllers would write on what is made.

Real: etcd, the API server, NATS with JetStream, the operator's process. Played: Jobs' and Deployments' status, and the
progress that a training's controller tells.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from nats.aio.client import Client

from support.cluster.pool_world import vllm_pool
from support.cluster.training_life import GROUP, Stage, documents
from testbed.api import Api

OPERATOR = "toolorchestra-operator"
ENDPOINTS = 2
"""Of a namespace's pools: the experts of its trainings. The others are served by vLLM."""
_CHILD = re.compile(r"^((?:training|pool)-\d+)-")


@dataclass(frozen=True)
class World:
    """`trainings` and `pools` in all, spread over `namespaces`."""

    api: Api
    bus: Client
    trainings: int
    pools: int
    namespaces: int

    @property
    def spaces(self) -> list[str]:
        return [f"bench-{number}" for number in range(self.namespaces)]

    def stages(self) -> list[Stage]:
        per = self.trainings // self.namespaces
        return [
            Stage(self.api, space, self.bus, f"training-{number * per + one}")
            for number, space in enumerate(self.spaces)
            for one in range(per)
        ]

    def served(self) -> list[tuple[str, str]]:
        """Namespace and name of the pools that vLLM serves."""
        per = self.pools // self.namespaces - ENDPOINTS
        return [(space, f"pool-{number * per + one}") for number, space in enumerate(self.spaces) for one in range(per)]

    def prepare(self) -> None:
        """Namespaces, and the endpoints that trainings are admitted with."""
        for space in self.spaces:
            self.api.create("/api/v1/namespaces", {"metadata": {"name": space}})
            for pool in documents()[1]:
                self.api.create(f"{GROUP}/namespaces/{space}/expertpools", pool)

    def submit(self) -> None:
        """Everything, one request after the other."""
        for space, name in self.served():
            self.api.create(f"{GROUP}/namespaces/{space}/expertpools", {**vllm_pool(), "metadata": {"name": name}})
        for stage in self.stages():
            stage.submit(pools=False)

    async def comes_up(self) -> None:
        """Every pod of every cluster is ready, and every training is at its first step.

        Pools go on loading their models: there is no server that could answer a probe.
        """
        for stage in self.stages():
            await stage.tells(1, 1)
            stage.comes_up(1)

    def children(self) -> list[dict[str, Any]]:
        """Every object that the operator has made, as somebody would write it down: what the peer applies."""
        found = []
        for group, version, plural, kind in _MADE:
            path = f"/apis/{group}/{version}" if group else f"/api/{version}"
            for live in self.api.get(f"{path}/{plural}")["items"]:
                if live["metadata"]["namespace"] in self.spaces and _CHILD.match(live["metadata"]["name"]):
                    api_version = f"{group}/{version}" if group else version
                    found.append(_written({"apiVersion": api_version, "kind": kind, **live}))
        return found


_MADE = (
    ("", "v1", "secrets", "Secret"),
    ("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim"),
    ("", "v1", "configmaps", "ConfigMap"),
    ("", "v1", "services", "Service"),
    ("batch", "v1", "jobs", "Job"),
    ("apps", "v1", "deployments", "Deployment"),
    ("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy"),
    ("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget"),
)


def _written(live: dict[str, Any]) -> dict[str, Any]:
    """An object without what the server put in."""
    metadata = {
        key: live["metadata"][key] for key in ("name", "namespace", "labels", "annotations") if key in live["metadata"]
    }
    found = {key: value for key, value in live.items() if key not in ("metadata", "status")} | {"metadata": metadata}
    spec = dict(found.get("spec") or {})
    if live["kind"] == "Service":
        for given in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if spec.get("clusterIP") != "None" or given == "clusterIPs":
                spec.pop(given, None)
    if live["kind"] == "Job":
        spec.pop("selector", None)
        template = json.loads(json.dumps(spec["template"]))
        labels = template["metadata"].get("labels") or {}
        template["metadata"]["labels"] = {key: value for key, value in labels.items() if not _is_given(key)}
        template["metadata"].pop("creationTimestamp", None)
        spec["template"] = template
        found["metadata"]["labels"] = {k: v for k, v in metadata.get("labels", {}).items() if not _is_given(k)}
    if spec:
        found["spec"] = spec
    return found


def _is_given(label: str) -> bool:
    return label.endswith(("controller-uid", "job-name")) or label in ("controller-uid", "job-name")


@dataclass(frozen=True)
class Event:
    """One answered write of the audit log. `at`: seconds since the epoch, on the API server's clock."""

    at: float
    verb: str
    resource: str
    namespace: str
    name: str
    agent: str
    code: int

    @property
    def parent(self) -> str:
        """The training or pool that a child's name begins with; its own name for a parent."""
        found = _CHILD.match(self.name)
        return found[1] if found else self.name


def events(log: Path, *, since: int = 0) -> Iterator[Event]:
    """The audit log's writes after a position."""
    with log.open("rb") as file:
        file.seek(since)
        for line in file.read().split(b"\n")[:-1]:
            one = json.loads(line)
            what = one.get("objectRef", {})
            sub = f"/{what['subresource']}" if what.get("subresource") else ""
            yield Event(
                at=datetime.fromisoformat(one["stageTimestamp"]).timestamp(),
                verb=one["verb"],
                resource=what.get("resource", "") + sub,
                namespace=what.get("namespace", ""),
                name=what.get("name", ""),
                agent=one.get("userAgent", ""),
                code=one.get("responseStatus", {}).get("code", 0),
            )
