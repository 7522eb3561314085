"""`orchestra logs` and `get-model` where a kubelet answers: a pod writes a model to a training's volume, in place of a
trainer, and the command line reads it."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.real_run import TINY_RUN
from support.run_rig import orchestra
from testbed.cluster import CHECKOUT
from testbed.image import image_of_commands
from testbed.node_cluster import NodeCluster
from toolorchestra.cluster_client.retention import folder_of

SIZE = 48 * 2**20
NEEDED = ("sh", "tar", "find", "stat", "sha256sum", "sleep")
"""Of an image that reads."""


@pytest.fixture(scope="session")
def image(node_cluster: NodeCluster) -> str:
    name = f"{node_cluster.registry}/commands:1"
    image_of_commands(*NEEDED, "mkdir", "head").push(name)
    return name


@pytest.fixture
def definitions(node_cluster: NodeCluster) -> Iterator[None]:
    """The CRDs; taken away again where no chart brought them, so that one can."""
    api, crds = node_cluster.api, "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
    there = {one["metadata"]["name"] for one in api.get(crds)["items"]}
    names = api.apply_crds(sorted((CHECKOUT / "crds").glob("*.yaml"))) if not there else []
    yield
    for name in names:
        api.delete(f"{crds}/{name}")
    until("the CRDs are gone", lambda: not {one["metadata"]["name"] for one in api.get(crds)["items"]} & {*names})


def until(what: str, seen: Callable[[], bool], *, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not seen():
        assert time.monotonic() < deadline, f"{what}: not after {seconds:.0f} s"
        time.sleep(0.2)


def writer(image: str, folder: str) -> dict[str, Any]:
    """A head that writes a model, says what it wrote, and ends."""
    export = f"/volume/{folder}/export/last"
    script = f"""
        mkdir -p {export}/sub; head -c {SIZE} /dev/urandom > {export}/model.safetensors
        echo '{{}}' > {export}/config.json; echo x > "{export}/sub/a file"
        sha256sum < {export}/model.safetensors; sleep 3; echo ended
    """
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = {
        "name": "head",
        "image": image,
        "command": ["sh", "-c", script],
        "securityContext": restricted,
        "volumeMounts": [{"name": "volume", "mountPath": "/volume"}],
    }
    labels = {"toolorchestra.dev/training": "tiny", "app.kubernetes.io/component": "head"}
    security = {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000, "seccompProfile": {"type": "RuntimeDefault"}}
    return {
        "metadata": {"name": "tiny-1-head", "labels": labels},
        "spec": {
            "restartPolicy": "Never",
            "securityContext": security,
            "containers": [container],
            "volumes": [{"name": "volume", "persistentVolumeClaim": {"claimName": "tiny-storage"}}],
        },
    }


@pytest.mark.usefixtures("definitions")
def test_logs_and_model_of_a_training(
    node_cluster: NodeCluster, restricted_namespace: str, image: str, tmp_path: Path
) -> None:
    api, namespace = node_cluster.api, restricted_namespace
    there = ("--kubeconfig", node_cluster.kubeconfig, "--namespace", namespace)
    orchestra("submit", "-f", TINY_RUN / "training.yaml", *there)
    path = f"/apis/toolorchestra.dev/v1alpha1/namespaces/{namespace}/orchestratortrainings/tiny"
    training = api.get(path)
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    core = f"/api/v1/namespaces/{namespace}"
    api.create(f"{core}/persistentvolumeclaims", {"metadata": {"name": "tiny-storage"}, "spec": claim})
    early = orchestra("get-model", "tiny", *there, "--to", tmp_path / "early", "--image", image, status=2)
    assert "no model is exported yet (Pending" in early.stderr
    api.create(f"{core}/pods", writer(image, folder_of(training)))
    since = {"lastTransitionTime": "2030-01-01T00:00:00Z"}
    complete = {"type": "Complete", "status": "True", "reason": "StepsDone", **since}
    api.merge(f"{path}/status", {"status": {"conditions": [complete]}})

    followed = orchestra("logs", "tiny", *there, "-f").stdout.splitlines()
    digest, ended = followed[0].split()[0], followed[-1]
    assert (len(digest), ended) == (64, "ended")
    assert orchestra("logs", "tiny", *there, "-n", "1").stdout == "ended\n"

    target, began = tmp_path / "model", time.monotonic()
    said = orchestra("get-model", "tiny", *there, "--to", target, "--image", image)
    print(f"{SIZE / 2**20:.0f} MiB in {time.monotonic() - began:.1f} s, the pod's start and end included")
    assert "3 files, 48.0 MiB, every digest verified" in said.stdout
    assert hashlib.sha256((target / "model.safetensors").read_bytes()).hexdigest() == digest
    assert (target / "sub" / "a file").read_text() == "x\n"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    left = [one["metadata"]["name"] for one in api.get(f"{core}/pods")["items"]]
    assert left == ["tiny-1-head"], "the pod that reads is gone"
