"""A training under the Builtin provider in a cluster in memory, whose pods do as they are told."""

from __future__ import annotations

import copy
from typing import Any

import yaml

from support.cluster.cluster_model import ClusterModel
from support.cluster.openapi_excerpt import schemas
from support.real_run import TINY_RUN
from toolorchestra.api.conditions import Reason
from toolorchestra.api.pool import ExpertPool
from toolorchestra_operator.kubernetes.manifest import Ref
from toolorchestra_operator.planning.needs import Missing
from toolorchestra_operator.planning.plan import Plan
from toolorchestra_operator.trainings.names import TrainingNames
from toolorchestra_operator.trainings.observed import Messaging, Observed
from toolorchestra_operator.trainings.reconcile import reconcile
from toolorchestra_operator.trainings.remembered import Remembered, condition_of
from toolorchestra_operator.trainings.runtime import Runtime

KEPT = {"PersistentVolumeClaim tiny-storage"}
"""What is left of a training when its compute is given back."""
RUNTIME = Runtime(cpu_image="cpu", gpu_image="gpu", worker_image="worker", nats_url="nats://nats:4222")
DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all((TINY_RUN / "training.yaml").read_text()))
UID = "0b1d6a2e-6c1f-4d0b-9f43-6f3f6a0f7a11"


def ready(pool: dict[str, Any]) -> ExpertPool:
    since = {"lastTransitionTime": "2030-01-01T00:00:00Z", "observedGeneration": 1}
    status = {"conditions": [{"type": "Ready", "status": "True", "reason": "Ready", **since}]}
    return ExpertPool.model_validate({**pool, "status": status})


def stored_pool(pool: ExpertPool, **spec: Any) -> dict[str, Any]:
    """The pool with other fields in its spec; None: without that one."""
    written = pool.model_dump(mode="json", by_alias=True, exclude_none=True)
    written["spec"] = {key: value for key, value in (written["spec"] | spec).items() if value is not None}
    return written


class World(ClusterModel):
    """The tiny training, its experts, and what the test lets happen to its cluster."""

    def __init__(self, **spec: Any) -> None:
        parent = copy.deepcopy(DOCUMENTS[0])
        parent["metadata"] |= {"namespace": "default", "uid": UID, "generation": 1}
        parent["spec"] |= spec
        super().__init__(parent)
        self.pools = tuple(ready(pool) for pool in DOCUMENTS[1:])
        self.pods: list[dict[str, Any]] = []
        self.progress: dict[str, Any] = {}
        self.nats_error = ""
        self.nats_pending = ""
        self.leases: int | None = None
        self.missing: tuple[Missing, ...] = ()
        self.hidden: tuple[Ref, ...] = ()
        """What the operator may not look at."""
        self.runtime = RUNTIME

    @property
    def names(self) -> TrainingNames:
        return TrainingNames.of(self.parent)

    @property
    def attempt(self) -> int:
        return Remembered.of(self.parent).attempt

    def observed(self) -> Observed:
        up = self.names.short_uid in self.streams
        told, pending = self.nats_error, self.nats_pending
        ready = up and not (told or pending)
        messaging = Messaging(ready=ready, error=told, pending=pending, leases=self.leases)
        return Observed(
            parent=copy.deepcopy(self.parent),
            runtime=self.runtime,
            schemas=schemas(),
            objects={ref: live for ref, live in self.live().items() if ref not in self.hidden},
            hidden=frozenset(self.hidden),
            pods=tuple(self.pods),
            pools=self.pools,
            missing=(*self.missing, *(Missing(Reason.FORBIDDEN, f"cannot get {ref}") for ref in self.hidden)),
            messaging=messaging,
            progress=self.progress if messaging.answered else {},
            token="t" * 64,
        )

    def plan(self) -> Plan:
        return reconcile(self.observed(), self.now)

    def settle(self) -> None:
        """Reconcile until nothing is left to do."""
        for _ in range(12):
            plan = self.plan()
            if plan.empty:
                return
            self.carry_out(plan)
        raise AssertionError(f"it never comes to rest: {self.plan()}")

    def job(self, component: Any) -> Ref:
        return Ref("batch/v1", "Job", "default", self.names.job(self.attempt, component))

    def comes_up(self) -> None:
        for component in ("head", "trainers", "engines"):
            self.set_status(self.job(component), {"ready": 1, "active": 1})
        self.progress = {"attempt": self.attempt, "state": "Running", "message": "", "step": 1, "steps": 10}

    def head_ends(self, code: int, message: str = "") -> None:
        kind = "Complete" if code == 0 else "Failed"
        self.set_status(self.job("head"), {"conditions": [{"type": kind, "status": "True"}]})
        ended = {"name": "head", "state": {"terminated": {"exitCode": code, "message": message}}}
        labels = self.names.labels("head", attempt=self.attempt)
        job = self.live()[self.job("head")]["metadata"]
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job["name"], "uid": job["uid"], "controller": True}
        status = {"phase": "Succeeded" if code == 0 else "Failed", "containerStatuses": [ended]}
        self.pods = [{"metadata": {"name": "head", "labels": labels, "ownerReferences": [owner]}, "status": status}]

    def says(self, kind: str) -> tuple[str, str, str]:
        found = condition_of(self.parent, kind)
        return found.get("status", ""), found.get("reason", ""), found.get("message", "")

    def kinds(self) -> set[str]:
        return {f"{ref.kind} {ref.name}" for ref in self.objects}
