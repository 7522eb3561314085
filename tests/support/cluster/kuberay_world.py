"""A training under the KubeRay provider in a cluster in memory, whose RayJob goes as it is told."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import yaml

from support.cluster.cluster_model import ClusterModel
from support.cluster.openapi_excerpt import schemas
from support.real_run import TINY_RUN
from toolorchestra.api.pool import ExpertPool
from toolorchestra_operator.kubernetes.kinds import RAY_JOB
from toolorchestra_operator.kubernetes.manifest import Ref
from toolorchestra_operator.planning.plan import Plan
from toolorchestra_operator.trainings.names import TrainingNames
from toolorchestra_operator.trainings.observed import Messaging, Observed
from toolorchestra_operator.trainings.reconcile import reconcile
from toolorchestra_operator.trainings.remembered import Remembered, condition_of
from toolorchestra_operator.trainings.runtime import Runtime

RUNTIME = Runtime(cpu_image="cpu", gpu_image="gpu", worker_image="worker", nats_url="nats://nats:4222")
DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all((TINY_RUN / "training.yaml").read_text()))
UID = "0b1d6a2e-6c1f-4d0b-9f43-6f3f6a0f7a11"
GPUS = {"limits": {"nvidia.com/gpu": 1, "memory": "64Gi"}}
RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}


def ready(pool: dict[str, Any]) -> ExpertPool:
    since = {"lastTransitionTime": "2030-01-01T00:00:00Z", "observedGeneration": 1}
    status = {"conditions": [{"type": "Ready", "status": "True", "reason": "Ready", **since}]}
    return ExpertPool.model_validate({**pool, "status": status})


class World(ClusterModel):
    """The tiny training on a cluster with KubeRay; `workloads` None: without Kueue."""

    def __init__(self, **spec: Any) -> None:
        parent = copy.deepcopy(DOCUMENTS[0])
        parent["metadata"] |= {"namespace": "default", "uid": UID, "generation": 1}
        parent["spec"] |= {"ray": {}} | spec
        super().__init__(parent)
        self.pools = tuple(ready(pool) for pool in DOCUMENTS[1:])
        self.kuberay = True
        self.runtime = RUNTIME
        self.workloads: tuple[Mapping[str, Any], ...] | None = None
        self.pods: list[dict[str, Any]] = []
        self.progress: dict[str, Any] = {}

    @property
    def names(self) -> TrainingNames:
        return TrainingNames.of(self.parent)

    @property
    def attempt(self) -> int:
        return Remembered.of(self.parent).attempt

    def plan(self) -> Plan:
        up = self.names.short_uid in self.streams
        observed = Observed(
            parent=copy.deepcopy(self.parent),
            runtime=self.runtime,
            schemas=schemas(),
            objects=self.live(),
            pods=tuple(self.pods),
            pools=self.pools,
            messaging=Messaging(ready=up),
            progress=self.progress,
            kuberay=self.kuberay,
            workloads=self.workloads,
            token="t" * 64,
        )
        return reconcile(observed, self.now)

    def settle(self) -> None:
        for _ in range(12):
            plan = self.plan()
            if plan.empty:
                return
            self.carry_out(plan)
        raise AssertionError(f"it never comes to rest: {self.plan()}")

    @property
    def ref(self) -> Ref:
        return Ref(*RAY_JOB, "default", self.names.attempt(self.attempt))

    @property
    def job(self) -> Mapping[str, Any]:
        return self.live()[self.ref]

    def says(self, kind: str) -> tuple[str, str, str]:
        found = condition_of(self.parent, kind)
        return found.get("status", ""), found.get("reason", ""), found.get("message", "")

    def kinds(self) -> set[str]:
        return {f"{ref.kind} {ref.name}" for ref in self.objects}

    def workers(self) -> int:
        deployment = self.live()[Ref("apps/v1", "Deployment", "default", self.names.workers)]
        return int(deployment["spec"]["replicas"])

    def is_(self, **status: Any) -> None:
        """KubeRay says so."""
        started = {"startTime": self.now.isoformat().replace("+00:00", "Z")}
        self.set_status(self.ref, started | status)

    def comes_up(self) -> None:
        self.is_(**RUNNING)
        self.progress = {"attempt": self.attempt, "state": "Running", "message": "", "step": 1, "steps": 10}

    def driver_ends(self, code: int, words: str = "") -> None:
        if code == 0:
            self.is_(jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
            return
        message = f"Job entrypoint command failed with exit code {code}, last available logs (…):\n{words}"
        self.is_(jobDeploymentStatus="Failed", jobStatus="FAILED", reason="AppFailed", message=message)

    def suspends(self, flag: bool) -> None:
        """The second manager."""
        live = self.objects[self.ref].live
        assert live is not None
        live["spec"]["suspend"] = flag


RAY_JOB_1, CONFIG_1 = "RayJob tiny-1", "ConfigMap tiny-1"
