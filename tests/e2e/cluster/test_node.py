"""The node is a real one: what pods, Services, names, volumes, `exec` and `logs` promise holds on it."""

from __future__ import annotations

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from testbed.api import Refused
from testbed.binaries import binaries
from testbed.image import image_of
from testbed.node_cluster import NodeCluster

RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@pytest.fixture(scope="session")
def image(node_cluster: NodeCluster) -> str:
    """The tests' own image, in the cluster's registry."""
    name = f"{node_cluster.registry}/visitor:1"
    image_of(binaries(["visitor"])["visitor"]).push(name)
    return name


def deployment(image: str, **pod: Any) -> dict[str, Any]:
    labels = {"app": "visitor"}
    container = {
        "name": "visitor",
        "image": image,
        "securityContext": RESTRICTED,
        "readinessProbe": {"httpGet": {"path": "/name", "port": 8080}, "periodSeconds": 1},
        **({"volumeMounts": [{"name": "data", "mountPath": "/data"}]} if "volumes" in pod else {}),
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "visitor"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container], **pod}},
        },
    }


SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "visitor"},
    "spec": {"selector": {"app": "visitor"}, "ports": [{"port": 80, "targetPort": 8080}]},
}


def until(what: str, ask: Callable[[], Any], *, seconds: float = 120.0) -> Any:
    """The first answer that is true; the cluster has no other way to say that it is done."""
    deadline = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < deadline, f"{what}: not after {seconds:.0f} s"
        time.sleep(0.2)
    return answer


def visit(url: str) -> str:
    """What an address answers, asked from this machine; empty where nobody does yet."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
            text: str = answer.read().decode()
            return text
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return ""


def kubectl(cluster: NodeCluster, *arguments: str) -> str:
    done = subprocess.run(
        [str(binaries(["kubectl"])["kubectl"]), *arguments],
        env={**os.environ, "KUBECONFIG": str(cluster.kubeconfig)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def deployed(cluster: NodeCluster, namespace: str, wanted: dict[str, Any]) -> list[str]:
    """Apply the Deployment and wait for its replicas; the names of its pods."""
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/visitor"
    cluster.api.apply(path, wanted)
    replicas = wanted["spec"]["replicas"]
    until("replicas ready", lambda: cluster.api.get(path)["status"].get("readyReplicas") == replicas)
    pods = cluster.api.get(f"/api/v1/namespaces/{namespace}/pods")["items"]
    return [pod["metadata"]["name"] for pod in pods]


def test_pods_serve_behind_a_service_and_a_name(
    node_cluster: NodeCluster, restricted_namespace: str, image: str
) -> None:
    names = deployed(node_cluster, restricted_namespace, deployment(image))
    path = f"/api/v1/namespaces/{restricted_namespace}/services"
    address = node_cluster.api.create(path, SERVICE)["spec"]["clusterIP"]
    assert until("the Service answers", lambda: visit(f"http://{address}/name")) in names
    name = f"visitor.{restricted_namespace}.svc.cluster.local"
    assert until("the name resolves", lambda: visit(f"http://{address}/resolve?name={name}")) == address
    inside = kubectl(
        *(node_cluster, "exec", "-n", restricted_namespace, names[0], "--"),
        *("/visitor", "get", f"http://visitor.{restricted_namespace}/name"),
    )
    assert inside in names
    assert "visitor listens" in kubectl(node_cluster, "logs", "-n", restricted_namespace, names[0])


def test_a_note_on_a_volume_outlives_its_pod(node_cluster: NodeCluster, restricted_namespace: str, image: str) -> None:
    claim = {
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }
    node_cluster.api.create(f"/api/v1/namespaces/{restricted_namespace}/persistentvolumeclaims", claim)
    wanted = deployment(image, volumes=[{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}])
    wanted["spec"]["replicas"] = 1
    pods = f"/api/v1/namespaces/{restricted_namespace}/pods"

    def asked(path: str) -> str:
        """What the Deployment's pod answers; empty where there is none that does."""
        live = [one for one in node_cluster.api.get(pods)["items"] if "deletionTimestamp" not in one["metadata"]]
        addresses = [one["status"]["podIP"] for one in live if "podIP" in one["status"]]
        return visit(f"http://{addresses[0]}:8080{path}") if addresses else ""

    (first,) = deployed(node_cluster, restricted_namespace, wanted)
    assert asked("/note?text=kept") == "kept"
    node_cluster.api.delete(f"{pods}/{first}", gracePeriodSeconds="0")
    until("the first pod is gone", lambda: first not in json.dumps(node_cluster.api.get(pods)["items"]))
    # Not by the Deployment's status, which may still be about the first one.
    assert until("another answers", lambda: asked("/note")) == "kept"


def test_what_is_not_restricted_is_refused(node_cluster: NodeCluster, restricted_namespace: str, image: str) -> None:
    pod = {"metadata": {"name": "root"}, "spec": {"containers": [{"name": "a", "image": image}]}}
    with pytest.raises(Refused, match="violates PodSecurity"):
        node_cluster.api.create(f"/api/v1/namespaces/{restricted_namespace}/pods", pod)


def test_an_owner_that_goes_takes_what_it_owns(
    node_cluster: NodeCluster, restricted_namespace: str, image: str
) -> None:
    deployed(node_cluster, restricted_namespace, deployment(image))
    node_cluster.api.delete(f"/apis/apps/v1/namespaces/{restricted_namespace}/deployments/visitor")
    pods = f"/api/v1/namespaces/{restricted_namespace}/pods"
    until("the pods are gone", lambda: not node_cluster.api.get(pods)["items"])
