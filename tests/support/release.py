"""A Helm release of this project on a test cluster's node, as somebody has it who followed docs/install.md."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.real_run import TINY_RUN
from testbed.api import Refused
from testbed.binaries import binaries
from testbed.cluster import CHECKOUT
from testbed.image import image_of
from testbed.node_cluster import NodeCluster

GROUP = "/apis/toolorchestra.dev/v1alpha1"
CORE = "/api/v1"
PLURALS = {"ExpertPool": "expertpools", "OrchestratorTraining": "orchestratortrainings"}
NAME = "orchestra"
SYSTEM, RESEARCH, OBSERVABILITY, KUBERAY = "orchestra-system", "research", "observability", "kuberay-system"
"""Where the release runs, where its users' resources are, where traces go, and where KubeRay runs if it does."""
PATIENCE_SECONDS = 1200.0
READY_SECONDS = 180.0
"""Of a pod of one program, with its image's way to the node."""
DOOMED = ("CrashLoopBackOff", "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerError")
"""Reasons for which a pod waits that time does not mend."""
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "seccompProfile": {"type": "RuntimeDefault"},
}


@dataclass(frozen=True)
class Images:
    """References in the cluster's registry: ours by digest, the others by tag."""

    operator: str
    worker: str
    cluster: str
    nats: str
    jaeger: str


def _split(reference: str) -> dict[str, str]:
    """As the chart has it: repository (without the registry) and digest."""
    repository, _, digest = reference.rpartition("/")[2].partition("@")
    return {"repository": repository, "digest": digest}


@dataclass
class Release:
    """The chart, installed by `install`, watching one namespace; Jaeger beside it."""

    cluster: NodeCluster
    images: Images
    folder: Path
    provider: str = "Builtin"
    """Who makes the trainings' Ray clusters."""
    jaeger: str = field(default="", init=False)
    """Jaeger's address, which holds on this machine too."""

    # ── putting it there ───────────────────────────────────────────────────────────────────────────────────────────

    def values(self) -> dict[str, Any]:
        """What a user of a cluster without GPUs and without a registry of the public would write."""
        nats, _, tag = self.images.nats.rpartition(":")
        cluster = _split(self.images.cluster)
        small = {"requests": {"cpu": "50m", "memory": "512Mi"}}
        return {
            "imageRegistry": self.cluster.registry,
            "images": {
                "operator": _split(self.images.operator),
                "worker": _split(self.images.worker),
                "cpu": cluster,
                "gpu": cluster,
            },
            "crds": {"keep": False},
            "watchNamespaces": [RESEARCH],
            "telemetry": {"otlpEndpoint": f"http://jaeger.{OBSERVABILITY}.svc:4318"},
            "nats": {
                "image": {"repository": nats, "tag": tag, "digest": ""},
                "command": ["/nats-server"],
                "storage": {"size": "1Gi"},
            },
            "simulator": {
                "enabled": True,
                "timeScale": 0,
                "skills": yaml.safe_load((TINY_RUN / "skills.yaml").read_text())["spec"],
            },
            "test": {
                "model": "file:///models/demo",
                "storage": {"size": "1Gi"},
                **dict.fromkeys(("head", "trainers", "engines"), small),
            },
        }

    def install(self) -> None:
        """Namespaces in which restricted pod security is enforced, Jaeger, and the chart."""
        for name in (SYSTEM, RESEARCH, OBSERVABILITY):
            labels = {"pod-security.kubernetes.io/enforce": "restricted"}
            self.cluster.api.create(f"{CORE}/namespaces", {"metadata": {"name": name, "labels": labels}})
        self.jaeger = self._serve_jaeger()
        file = self.folder / "values.yaml"
        file.write_text(yaml.safe_dump(self.values()))
        chart = str(CHECKOUT / "charts/toolorchestra")
        self.helm("install", NAME, chart, "--values", str(file), "--wait", "--timeout", "10m")

    def _serve_jaeger(self) -> str:
        """A Deployment of one and its Service; the Service's address."""
        labels = {"app": "jaeger"}
        container = {
            "name": "jaeger",
            "image": self.images.jaeger,
            "args": ["--memory.max-traces=20000"],
            "env": [{"name": "SPAN_STORAGE_TYPE", "value": "memory"}],
            "securityContext": RESTRICTED,
            "readinessProbe": {"tcpSocket": {"port": 16686}, "periodSeconds": 1},
        }
        self._deploy("jaeger", OBSERVABILITY, labels, {"containers": [container]})
        ports = [{"name": "otlp", "port": 4318}, {"name": "query", "port": 16686}]
        service = {"metadata": {"name": "jaeger"}, "spec": {"selector": labels, "ports": ports}}
        made = self.cluster.api.create(f"{CORE}/namespaces/{OBSERVABILITY}/services", service)
        return str(made["spec"]["clusterIP"])

    def install_kuberay(self, program: Path, crds: Sequence[Path]) -> None:
        """KubeRay's own operator, in a pod; with every right, because the cluster is a test's."""
        api, name = self.cluster.api, "kuberay-operator"
        api.apply_crds(crds)
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        api.create(f"{CORE}/namespaces", {"metadata": {"name": KUBERAY, "labels": labels}})
        image = f"{self.cluster.registry}/{name}:test"
        image_of(program).push(image)
        account = {"metadata": {"name": name}}
        api.create(self.path("serviceaccounts", group=CORE, namespace=KUBERAY), account)
        rights = {
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": KUBERAY}],
        }
        api.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", rights)
        container = {
            "name": name,
            "image": image,
            "args": ["--enable-leader-election=false"],
            "securityContext": RESTRICTED,
            "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8082}, "periodSeconds": 1},
        }
        pod = {"serviceAccountName": name, "containers": [container]}
        self._deploy(name, KUBERAY, {"app.kubernetes.io/component": name}, pod)

    def _deploy(self, name: str, namespace: str, labels: Mapping[str, str], pod: Mapping[str, Any]) -> None:
        """A Deployment of one, ready; a failure with its pod's words where it will not be."""
        spec = {
            "replicas": 1,
            "selector": {"matchLabels": dict(labels)},
            "template": {"metadata": {"labels": dict(labels)}, "spec": dict(pod)},
        }
        path = self.path("deployments", group="/apis/apps/v1", namespace=namespace)
        self.cluster.api.create(path, {"metadata": {"name": name}, "spec": spec})

        def ready() -> bool:
            if (why := self._doomed(namespace, labels)) is not None:
                pytest.fail(f"{name} does not start: {why}\n{self._log_of(namespace, name)}", pytrace=False)
            return bool(self.cluster.api.get(f"{path}/{name}")["status"].get("readyReplicas") == 1)

        self.until(f"{name} is ready", ready, seconds=READY_SECONDS)

    def _doomed(self, namespace: str, labels: Mapping[str, str]) -> str | None:
        """Why a pod with these labels will not run; None: it may."""
        for pod in self.items("pods", namespace=namespace):
            if labels.items() <= (pod["metadata"].get("labels") or {}).items():
                for one in (pod.get("status") or {}).get("containerStatuses") or ():
                    waiting = (one.get("state") or {}).get("waiting") or {}
                    if waiting.get("reason") in DOOMED:
                        return f"{waiting['reason']}: {waiting.get('message', '')}"
        return None

    # ── commands ───────────────────────────────────────────────────────────────────────────────────────────────────

    def helm(self, *arguments: str) -> str:
        """Run helm on the release's namespace; what it says."""
        return self._run("helm", "--namespace", SYSTEM, *arguments)

    def kubectl(self, *arguments: str, namespace: str = RESEARCH) -> str:
        """Run kubectl; what it says."""
        return self._run("kubectl", "--namespace", namespace, *arguments)

    def orchestra(self, *arguments: str) -> str:
        """Run this project's command on the users' namespace; what it says."""
        return self._run(str(Path(sys.executable).with_name("orchestra")), *arguments, "--namespace", RESEARCH)

    def _run(self, program: str, *arguments: str) -> str:
        path = program if program.startswith("/") else str(binaries([program])[program])
        done = subprocess.run(
            [path, *arguments],
            env={**os.environ, "KUBECONFIG": str(self.cluster.kubeconfig)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=3600,
        )
        said = f"{program} {' '.join(arguments[:4])} …: {done.stdout[-6000:]}{done.stderr[-6000:]}"
        assert done.returncode == 0, f"{said}\n{self.seen()}"
        return done.stdout

    # ── looking ────────────────────────────────────────────────────────────────────────────────────────────────────

    def path(self, kind: str, name: str = "", *, group: str = GROUP, namespace: str = RESEARCH) -> str:
        """The address of a collection, or of one of its objects."""
        return f"{group}/namespaces/{namespace}/{kind}" + (f"/{name}" if name else "")

    def items(self, kind: str, *, group: str = CORE, namespace: str = RESEARCH) -> list[dict[str, Any]]:
        """The objects of a collection."""
        found: list[dict[str, Any]] = self.cluster.api.get(self.path(kind, group=group, namespace=namespace))["items"]
        return found

    def pods(self, component: str, *, namespace: str = RESEARCH) -> list[dict[str, Any]]:
        """Pods of a component that are not going, the oldest first."""
        found = [
            one
            for one in self.items("pods", namespace=namespace)
            if (one["metadata"].get("labels") or {}).get("app.kubernetes.io/component") == component
            and "deletionTimestamp" not in one["metadata"]
        ]
        return sorted(found, key=lambda one: str(one["metadata"]["creationTimestamp"]))

    def status(self, kind: str, name: str) -> dict[str, Any]:
        """A resource's status; empty where it has none yet."""
        found: dict[str, Any] = self.cluster.api.get(self.path(PLURALS[kind], name)).get("status") or {}
        return found

    def condition(self, kind: str, name: str, condition: str) -> str:
        """The status of a condition; empty where it is not told."""
        conditions = self.status(kind, name).get("conditions") or ()
        return next((str(one["status"]) for one in conditions if one["type"] == condition), "")

    def until(self, what: str, ask: Callable[[], Any], *, seconds: float = PATIENCE_SECONDS) -> Any:
        """The first answer that is true, whatever the API server has been through."""
        deadline = time.monotonic() + seconds
        while not (answer := ask()):
            assert time.monotonic() < deadline, f"{what}: not after {seconds:.0f} s\n{self.seen()}"
            time.sleep(0.5)
        return answer

    def complete(self, name: str) -> dict[str, Any]:
        """Wait for a training's end, which must be a good one; its status."""

        def ended() -> bool:
            said = self.condition("OrchestratorTraining", name, "Failed")
            assert said != "True", f"it failed\n{self.seen()}"
            return self.condition("OrchestratorTraining", name, "Complete") == "True"

        self.until(f"{name} is complete", ended)
        return self.status("OrchestratorTraining", name)

    def volume(self, claim: str) -> Path:
        """The folder of this machine in which a claim's volume lies."""
        bound = self.cluster.api.get(self.path("persistentvolumeclaims", claim, group=CORE))["spec"]["volumeName"]
        local = self.cluster.api.get(f"{CORE}/persistentvolumes/{bound}")["spec"]["local"]["path"]
        return self.cluster.folder / "node" / "var-lib" / "volumes" / Path(local).name

    def seen(self) -> str:
        """For a failure: what the resources and the pods say, and the last words of the operator and of the heads."""
        found = []
        for kind in PLURALS.values():
            found += [(one["metadata"]["name"], one.get("status")) for one in self._quietly(kind, GROUP, RESEARCH)]
        for namespace in (SYSTEM, RESEARCH, OBSERVABILITY, KUBERAY):
            for pod in self._quietly("pods", CORE, namespace):
                states = (pod.get("status") or {}).get("containerStatuses") or pod.get("status")
                found.append((pod["metadata"]["name"], states))
        logs = [self._log(SYSTEM, "operator"), self._log(RESEARCH, "head"), self._log(RESEARCH, "workers")]
        logs += [self._log_of(KUBERAY, "kuberay-operator")] if self.provider == "KubeRay" else []
        return "\n".join([*(json.dumps(one)[:2500] for one in found), *logs])

    def _quietly(self, kind: str, group: str, namespace: str) -> list[dict[str, Any]]:
        try:
            return self.items(kind, group=group, namespace=namespace)
        except (Refused, OSError):
            return []

    def _log(self, namespace: str, component: str) -> str:
        return self._logs(namespace, "-l", f"app.kubernetes.io/component={component}", "--prefix")

    def _log_of(self, namespace: str, deployment: str) -> str:
        """The last words of a Deployment's pod, which may have ended."""
        now, before = (self._logs(namespace, f"deployment/{deployment}", *more) for more in ((), ("--previous",)))
        return before or now

    def _logs(self, namespace: str, *what: str) -> str:
        kubectl = str(binaries(["kubectl"])["kubectl"])
        argv = [kubectl, "-n", namespace, "logs", *what, "--tail=25"]
        environment = {**os.environ, "KUBECONFIG": str(self.cluster.kubeconfig)}
        return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60).stdout[-5000:]

    # ── traces ─────────────────────────────────────────────────────────────────────────────────────────────────────

    def traces(self, service: str, *, limit: int = 500) -> list[dict[str, Any]]:
        """The traces that a service took part in, from Jaeger's query API."""
        query = urllib.parse.urlencode({"service": service, "limit": limit, "lookback": "6h"})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{self.jaeger}:16686/api/traces?{query}", timeout=60) as answer:
            found: list[dict[str, Any]] = json.loads(answer.read())["data"]
        return found


def services(trace: Mapping[str, Any]) -> set[str]:
    """Who has a span in a trace."""
    return {str(process["serviceName"]) for process in trace["processes"].values()}


def orphans(trace: Mapping[str, Any]) -> list[str]:
    """The names of spans whose parent is not there."""
    there = {span["spanID"] for span in trace["spans"]}
    return [
        str(span["operationName"])
        for span in trace["spans"]
        for reference in span.get("references") or ()
        if reference["refType"] == "CHILD_OF" and reference["spanID"] not in there
    ]
