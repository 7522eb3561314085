"""The Helm chart as tests see it: rendered by the real helm, under values, into manifests."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from testbed.binaries import KUBERNETES, binaries
from testbed.cluster import CHECKOUT
from testbed.documents import documents

CHART = CHECKOUT / "charts" / "toolorchestra"
RELEASE, NAMESPACE = "rel", "system"
DIGEST = "sha256:" + "ab" * 32

Manifest = dict[str, Any]

EVERYTHING: Mapping[str, Any] = {
    "imageRegistry": "registry.example:5000/team/",
    "imagePullSecrets": ["pull-a", "pull-b"],
    "images": {"worker": {"repository": "w", "digest": DIGEST}, "gpu": {"repository": "g", "tag": "12"}},
    "operator": {
        "settings": {"workers": 8, "resyncSeconds": 120.5, "watchSeconds": 60, "cpuThreads": 2},
        "log": {"level": "DEBUG", "format": "text"},
        "env": [{"name": "EXTRA", "value": "1"}],
        "podAnnotations": {"a/b": "c"},
        "podLabels": {"team": "x"},
        "nodeSelector": {"kubernetes.io/os": "linux"},
        "tolerations": [{"key": "t", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "system-cluster-critical",
        "serviceAccount": {"annotations": {"x": "y"}},
    },
    "defaultResources": {"workers": {"requests": {"cpu": 1, "memory": "1Gi"}, "limits": {"cpu": 2, "memory": "1Gi"}}},
    "privilegedNamespaces": ["rdma"],
    "proxy": {"http": "http://proxy:3128", "https": "http://proxy:3128", "noProxy": "10.0.0.0/8"},
    "caBundle": {"configMap": "trust"},
    "telemetry": {"otlpEndpoint": "http://collector.observability:4318"},
    "nats": {
        "replicas": 3,
        "image": {"repository": "registry.example/nats", "digest": DIGEST},
        "storage": {"size": "5Gi", "storageClassName": "fast", "whenDeleted": "Retain"},
        "config": {"max_connections": 1000, "write_deadline": "5s"},
        "priorityClassName": "system-cluster-critical",
    },
    "simulator": {"enabled": True, "timeScale": 0},
    "pools": {"allowedHosts": ["api.example", "*.svc", "10.8.0.0/16"], "secretsNeedLabel": False},
    "networkPolicy": {"namespaces": ["team-a"], "egress": {"ports": [443, 9000], "apiServerPorts": [16443]}},
    "monitoring": {"enabled": True, "labels": {"release": "prometheus"}, "namespace": "monitoring"},
    "test": {
        "model": "pvc://models/tiny",
        "storage": {"size": "1Gi", "storageClassName": "fast"},
        "engines": {"limits": {"nvidia.com/gpu": 1}},
    },
}
"""Every part of the chart, and every value of another kind than the default."""

MATRIX: Mapping[str, Mapping[str, Any]] = {
    "defaults": {},
    "everything": EVERYTHING,
    "some namespaces": {"watchNamespaces": ["team-a", "team-b"], "simulator": {"enabled": True}},
    "outside NATS": {"nats": {"enabled": False, "url": "nats://a:4222,nats://b:4222", "streamReplicas": 3}},
    "NATS of a Secret": {"nats": {"enabled": False, "urlSecret": {"name": "nats", "key": "url"}}},
    "no NATS": {"nats": {"enabled": False}},
    "least": {
        "crds": {"enabled": False},
        "networkPolicy": {"enabled": False},
        "operator": {"serviceAccount": {"create": False, "name": "given"}},
    },
    "long names": {"fullnameOverride": "a-name-of-exactly-forty-characters-0123", "nats": {"replicas": 5}},
}


class Refused(Exception):
    """helm did not render; its words."""


def render(values: Mapping[str, Any] | None = None, *, release: str = RELEASE) -> list[Manifest]:
    """Every object, hooks included. Refused: helm said no. CannotBuild: there is no helm, and none can be built."""
    return list(documents(_helm(json.dumps(values or {}), release)))


def of_kind(manifests: list[Manifest], kind: str, name: str = "") -> Manifest:
    """The one object of a kind whose name ends so."""
    (found,) = (one for one in manifests if one["kind"] == kind and one["metadata"]["name"].endswith(name))
    return found


def pod_templates(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Every pod that these objects make: its name, and `{metadata, spec}`."""
    for one in manifests:
        if one["kind"] == "Pod":
            yield one["metadata"]["name"], one
        elif "template" in (one.get("spec") or {}):
            yield one["metadata"]["name"], one["spec"]["template"]


def environment(template: Manifest) -> dict[str, str]:
    """The main container's variables that have a value."""
    return {one["name"]: one["value"] for one in template["spec"]["containers"][0]["env"] if "value" in one}


def helm() -> Path:
    """The helm of the test bed."""
    return binaries(["helm"])["helm"]


@cache
def _helm(values: str, release: str) -> str:
    version = KUBERNETES.removeprefix("v")
    flags = ["template", release, str(CHART), "--namespace", NAMESPACE, "--kube-version", version]
    return _run([*flags, "--values", "-"], values)


def _run(flags: list[str], values: str) -> str:
    done = subprocess.run([str(helm()), *flags], input=values, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode:
        raise Refused(done.stderr.strip())
    return done.stdout
