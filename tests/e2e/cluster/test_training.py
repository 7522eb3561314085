"""A training on a real node: applied, it completes; killed, it goes on; deleted, it leaves its model and nothing else.

The operator is a process of this machine; everything that it makes runs in pods, restricted, from the project's images.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.real_run import TINY_RUN
from testbed.cluster import CHECKOUT
from testbed.image import image_of
from testbed.images import build, push, with_model
from testbed.node_cluster import NodeCluster

pytestmark = pytest.mark.timeout(3000)

GROUP = "/apis/toolorchestra.dev/v1alpha1"
STEPS = 20
PATIENCE_SECONDS = 1200.0
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Images:
    """References by digest in the cluster's registry."""

    worker: str
    cluster: str
    nats: str


@pytest.fixture(scope="session")
def images(node_cluster: NodeCluster) -> Images:
    """Built once (minutes), with the demo's base model in those that need it."""
    found = {}
    for role in ("worker", "cluster"):
        name = with_model(build(role, say=say), CHECKOUT / "examples/demo/base")
        found[role] = push(name, f"{node_cluster.registry}/toolorchestra-{role}:demo")
    nats = f"{node_cluster.registry}/nats-server:test"
    image_of(Path(sys.executable).with_name("nats-server")).push(nats)
    return Images(nats=nats, **found)


@dataclass
class Namespace:
    """One namespace of the cluster, with NATS, the simulator and an operator."""

    cluster: NodeCluster
    name: str
    images: Images
    folder: Path
    experts: str = ""
    """Address of the simulator's Service: the operator, outside, knows no names of the cluster."""

    def path(self, kind: str, name: str = "", group: str = GROUP) -> str:
        return f"{group}/namespaces/{self.name}/{kind}" + (f"/{name}" if name else "")

    def get(self, kind: str, name: str = "", group: str = GROUP) -> Any:
        return self.cluster.api.get(self.path(kind, name, group))

    def serve(self, name: str, image: str, port: int, **container: Any) -> str:
        """A Deployment of one and its Service; the Service's address, which holds on this machine too."""
        labels = {"app": name}
        main = {"name": name, "image": image, "securityContext": RESTRICTED, **container}
        main["readinessProbe"] = {"tcpSocket": {"port": port}, "periodSeconds": 1}
        volumes = main.pop("volumes", [])
        template = {"metadata": {"labels": labels}, "spec": {"containers": [main], "volumes": volumes}}
        spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
        body = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}
        self.cluster.api.create(self.path("deployments", group="/apis/apps/v1"), body)
        service = {"metadata": {"name": name}, "spec": {"selector": labels, "ports": [{"port": port}]}}
        made = self.cluster.api.create(self.path("services", group="/api/v1"), service)
        ready = lambda: self.get("deployments", name, "/apis/apps/v1")["status"].get("readyReplicas") == 1  # noqa: E731
        self.until(f"{name} is ready", ready)
        return str(made["spec"]["clusterIP"])

    def until(self, what: str, ask: Callable[[], Any], *, seconds: float = PATIENCE_SECONDS) -> Any:
        deadline = time.monotonic() + seconds
        while not (answer := ask()):
            assert time.monotonic() < deadline, f"{what}: not after {seconds:.0f} s\n{self.seen()}"
            time.sleep(0.5)
        return answer

    def condition(self, name: str, kind: str) -> str:
        conditions = (self.get("orchestratortrainings", name).get("status") or {}).get("conditions") or ()
        return next((one["status"] for one in conditions if one["type"] == kind), "")

    def seen(self) -> str:
        """For a failure: conditions, pods, and the operator's last words."""
        trainings = [one.get("status", {}) for one in self.get("orchestratortrainings")["items"]]
        pods = {one["metadata"]["name"]: one["status"] for one in self.get("pods", group="/api/v1")["items"]}
        return f"{json.dumps([trainings, pods])[:6000]}\n{(self.folder / 'operator.log').read_text()[-3000:]}"


@pytest.fixture
def place(node_cluster: NodeCluster, restricted_namespace: str, images: Images, tmp_path: Path) -> Iterator[Namespace]:
    crds = sorted((CHECKOUT / "crds").glob("*.yaml"))
    node_cluster.api.apply_crds(crds)
    place = Namespace(node_cluster, restricted_namespace, images, tmp_path)
    (tmp_path / "operator.log").touch()
    scratch = {"name": "data", "emptyDir": {}}
    nats = place.serve(
        *("nats", images.nats, 4222),
        args=["-js", "-sd", "/data"],
        volumes=[scratch],
        volumeMounts=[{"name": "data", "mountPath": "/data"}],
    )
    skills = {"metadata": {"name": "skills"}, "data": {"skills.yaml": (TINY_RUN / "skills.yaml").read_text()}}
    node_cluster.api.create(place.path("configmaps", group="/api/v1"), skills)
    place.experts = place.serve(
        *("simulator", images.worker, 8000),
        command=["orchestra", "simulate", "-f", "/etc/simulator/skills.yaml", "--host", "0.0.0.0", "--port", "8000"],
        args=["--time-scale", "0"],
        env=[{"name": "HOME", "value": "/tmp"}],
        volumes=[{"name": "skills", "configMap": {"name": "skills"}}],
        volumeMounts=[{"name": "skills", "mountPath": "/etc/simulator"}],
    )
    with running_operator(place, nats=f"nats://{nats}:4222"):
        yield place


class running_operator:
    """The real operator as a process; `kill` ends it as a lost node would, `start` brings the next one."""

    def __init__(self, place: Namespace, *, nats: str) -> None:
        self.place, self.nats = place, nats
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> running_operator:
        images = self.place.images
        argv = [sys.executable, "-m", "toolorchestra_operator.main", "--kubeconfig", str(self.place.cluster.kubeconfig)]
        argv += ["--watch-namespaces", self.place.name, "--nats-url", self.nats, "--host", "127.0.0.1"]
        argv += ["--cpu-image", images.cluster, "--worker-image", images.worker]
        argv += ["--health-port", "18080", "--metrics-port", "0"]
        with (self.place.folder / "operator.log").open("ab") as log:
            self.process = subprocess.Popen(argv, env=os.environ, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(timeout=60) == 0


def resources(*, experts: str, steps: int = STEPS) -> list[dict[str, Any]]:
    """The tiny training with the demo's model, and its pools at the simulator's Service."""
    training, *pools = yaml.safe_load_all((TINY_RUN / "training.yaml").read_text())
    small = {"resources": {"requests": {"cpu": "50m", "memory": "512Mi"}}}
    training["spec"]["model"]["uri"] = "file:///models/demo"
    training["spec"]["rollout"] |= {"maxPromptTokens": 900, "maxResponseTokens": 32, "workers": 1}
    training["spec"]["algorithm"]["steps"] = steps
    training["spec"]["ray"] = {"provider": "Builtin", "head": small, "trainers": small, "engines": small}
    training["spec"]["storage"] = {"type": "EphemeralClaim", "ephemeralClaim": {"size": "1Gi"}}
    training["spec"]["checkpoint"] = {"everySteps": 2, "keep": 3}
    for pool in pools:
        pool["spec"]["endpoint"]["url"] = f"http://{experts}:8000/v1"
    return [*pools, training]


PLURALS = {"ExpertPool": "expertpools", "OrchestratorTraining": "orchestratortrainings"}


def submit(place: Namespace) -> None:
    for one in resources(experts=place.experts):
        place.cluster.api.create(place.path(PLURALS[one["kind"]]), one)


def heads(place: Namespace) -> list[dict[str, Any]]:
    items = place.get("pods", group="/api/v1")["items"]
    labelled = [one for one in items if one["metadata"]["labels"].get("app.kubernetes.io/component") == "head"]
    return sorted(labelled, key=lambda one: str(one["metadata"]["creationTimestamp"]))


def test_a_training_completes_goes_on_after_a_kill_and_leaves_its_model(place: Namespace) -> None:
    api = place.cluster.api
    submit(place)
    place.until("a checkpoint", lambda: (status(place).get("checkpoint") or {}).get("step", 0) >= 2)
    (head,) = heads(place)
    # The pod of the head goes, as with its node: nobody's failure, and the next attempt goes on from the checkpoint.
    api.delete(place.path("pods", head["metadata"]["name"], "/api/v1"), gracePeriodSeconds="0")
    place.until("it completes", lambda: place.condition("tiny", "Complete") == "True")
    done = status(place)
    assert (done["step"], done["attempt"], done["restarts"], done["progressPercentage"]) == (STEPS, 2, 0, 100)
    assert done["checkpoint"]["step"] == STEPS
    assert done["exportURI"].startswith("pvc://tiny-storage/tiny-")
    assert {one["name"]: one["model"] for one in done["experts"]} == {"small": "small", "large": "large"}
    jobs = lambda: {one["metadata"]["name"] for one in place.get("jobs", group="/apis/batch/v1")["items"]}  # noqa: E731
    place.until("nodes are given back", lambda: jobs() == {"tiny-2-head"})
    reasons = {one["reason"] for one in place.get("events", group="/apis/events.k8s.io/v1")["items"]}
    assert {"Accepted", "StreamsReady", "StepsDone"} <= reasons
    api.delete(place.path("orchestratortrainings", "tiny"))
    place.until("it is gone", lambda: not place.get("orchestratortrainings")["items"])
    place.until("its children are gone", lambda: not jobs())
    claims = [one["metadata"]["name"] for one in place.get("persistentvolumeclaims", group="/api/v1")["items"]]
    assert claims == ["tiny-storage"], "the model outlives the resource"


def status(place: Namespace) -> dict[str, Any]:
    found: dict[str, Any] = place.get("orchestratortrainings", "tiny").get("status") or {}
    return found
