"""The week's cluster: tenants, what is foreign in them, what is wrong in a spec, and NATS servers that are dead."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from support.cluster.pool_world import vllm_pool
from support.cluster.training_life import GROUP, documents
from testbed.api import Api, Refused
from week.stories import FOREIGN, Life

OPERATOR = "toolorchestra-operator"
PLURALS = {
    "deployment": "/apis/apps/v1/namespaces/{space}/deployments",
    "job": "/apis/batch/v1/namespaces/{space}/jobs",
    "configmap": "/api/v1/namespaces/{space}/configmaps",
    "secret": "/api/v1/namespaces/{space}/secrets",
    "service": "/api/v1/namespaces/{space}/services",
    "claim": "/api/v1/namespaces/{space}/persistentvolumeclaims",
}
OWN_NAMES = {
    "deployment": "{name}-workers",
    "job": "{name}-1-head",
    "configmap": "{name}-1",
    "secret": "{name}-ray",
    "service": "{name}-1",
    "claim": "{name}-storage",
}
"""The name that a training's own object of the kind has."""
RESOURCES = {kind: path.rpartition("/")[2] for kind, path in PLURALS.items()}
_CONTAINER = {"name": "web", "image": "web:1"}
_LABELS = {"app": "web"}
_BODIES: dict[str, dict[str, Any]] = {
    "deployment": {
        "spec": {
            "replicas": 0,
            "selector": {"matchLabels": _LABELS},
            "template": {"metadata": {"labels": _LABELS}, "spec": {"containers": [_CONTAINER]}},
        }
    },
    "job": {"spec": {"suspend": True, "template": {"spec": {"restartPolicy": "Never", "containers": [_CONTAINER]}}}},
    "configmap": {"data": {"ours": "untouched"}},
    "secret": {"stringData": {"ours": "untouched"}},
    "service": {"spec": {"selector": _LABELS, "ports": [{"port": 80}]}},
    "claim": {"spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}},
}


REFUSED = ("PoolNotFound", "InvalidPodTemplate", "ClaimNotFound", "SecretNotFound")
"""Why, by the variant of what is wrong (`wrong`)."""


@dataclass(frozen=True, order=True)
class Foreign:
    """An object that is nobody's of ours."""

    kind: str
    space: str
    name: str

    @property
    def path(self) -> str:
        return f"{PLURALS[self.kind].format(space=self.space)}/{self.name}"


@dataclass
class World:
    """`foreign` maps each object to what the API server stored of it."""

    api: Api
    foreign: dict[Foreign, str] = field(default_factory=dict[Foreign, str])

    def prepare(self, spaces: list[str], *, pools: int) -> None:
        """Namespaces, the experts of their trainings, a claim with the model, and pools that vLLM serves."""
        for space in spaces:
            self.api.create("/api/v1/namespaces", {"metadata": {"name": space}})
            for pool in documents()[1]:
                self.api.create(f"{GROUP}/namespaces/{space}/expertpools", pool)
            claim = {"metadata": {"name": "models"}, **_BODIES["claim"]}
            self.api.create(PLURALS["claim"].format(space=space), claim)
        for number in range(pools - 2 * len(spaces)):
            body = {**vllm_pool(), "metadata": {"name": f"pool-{number}"}}
            self.api.create(f"{GROUP}/namespaces/{spaces[number % len(spaces)]}/expertpools", body)

    def put_in_the_way(self, life: Life) -> Foreign:
        """An object of somebody else with a name of the training's own."""
        kind = FOREIGN[life.variant % len(FOREIGN)]
        found = Foreign(kind, life.tenant, OWN_NAMES[kind].format(name=life.name))
        body = {"metadata": {"name": found.name, "labels": {"app": "web"}}, **_BODIES[kind]}
        self.api.create(PLURALS[kind].format(space=life.tenant), body)
        self.foreign[found] = self._stored(found)
        return found

    def changed(self) -> list[str]:
        """Foreign objects that are not what they were."""
        return [f"{one.kind} {one.space}/{one.name}" for one, was in self.foreign.items() if self._stored(one) != was]

    def _stored(self, one: Foreign) -> str:
        """UID, labels, owners and content; not what Kubernetes' own controllers count."""
        try:
            live = self.api.get(one.path)
        except Refused as refused:
            return str(refused)
        metadata = {key: live["metadata"].get(key) for key in ("uid", "labels", "ownerReferences")}
        notes = live["metadata"].get("annotations") or {}
        metadata["annotations"] = {key: value for key, value in notes.items() if ".kubernetes.io/" not in key}
        return json.dumps([metadata, live.get("spec"), live.get("data")], sort_keys=True)

    def left(self, space: str) -> list[str]:
        """What is in a tenant's namespace beside what is foreign and what Kubernetes puts into each."""
        found = []
        paths = {
            **{kind: PLURALS[kind].format(space=space) for kind in PLURALS},
            "pod": f"/api/v1/namespaces/{space}/pods",
            "training": f"{GROUP}/namespaces/{space}/orchestratortrainings",
            "pool": f"{GROUP}/namespaces/{space}/expertpools",
            "networkpolicy": f"/apis/networking.k8s.io/v1/namespaces/{space}/networkpolicies",
            "budget": f"/apis/policy/v1/namespaces/{space}/poddisruptionbudgets",
        }
        for kind, path in paths.items():
            for live in self.api.get(path)["items"]:
                name = live["metadata"]["name"]
                if Foreign(kind, space, name) not in self.foreign and name not in ("kube-root-ca.crt", "models"):
                    found.append(f"{kind} {space}/{name}")
        return found


def is_there(api: Api, path: str) -> bool:
    """Whether an object is."""
    try:
        api.get(path)
    except Refused as refused:
        if refused.code != 404:
            raise
        return False
    return True


def remove(api: Api, path: str) -> None:
    """Delete it, where it is there."""
    with contextlib.suppress(Refused):
        api.delete(path)


def wrong(variant: int) -> dict[str, Any]:
    """A spec, in part, that cannot be admitted though the API server stores it."""
    match variant % len(REFUSED):
        case 0:
            return {"tools": {"experts": {"type": "Names", "names": ["nobody"]}}}
        case 1:
            return {"ray": {"provider": "Builtin", "podTemplate": {"spec": {"containers": [{"name": "nobody"}]}}}}
        case 2:
            return {"model": _with(uri="pvc://nowhere/model")}
        case _:
            return {"model": _with(tokenSecretRef={"name": "nobody", "key": "token"})}


def _with(**fields: Any) -> dict[str, Any]:
    model: dict[str, Any] = documents()[0]["spec"]["model"]
    return model | fields


def lacking_secret(name: str) -> dict[str, Any]:
    return {"model": _with(tokenSecretRef={"name": name, "key": "token"})}


@contextmanager
def dead_servers() -> Iterator[list[str]]:
    """URLs of NATS servers that are dead: nobody listens, and somebody accepts and never says a word."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as silent, socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # not listening: refused
        yield [f"nats://127.0.0.1:{one.getsockname()[1]}" for one in (closed, silent)]
