"""A training on KubeRay on a real API server: what KubeRay's operator and Kueue would write is written here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from support.cluster.mortal_operator import LookingOperator
from support.cluster.training_life import Stage

FINALIZER = "ray.io/rayjob-finalizer"
RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}
AGENT = {"user_agent": "toolorchestra-operator"}


@dataclass
class KubeRay:
    """What KubeRay's operator and Kueue would write about one training's RayJobs."""

    stage: Stage

    def path(self, attempt: int, part: str = "") -> str:
        return self.stage.of("/apis/ray.io/v1", "rayjobs", f"{self.stage.name}-{attempt}", part)

    def job(self, attempt: int) -> dict[str, Any]:
        return self.stage.api.get(self.path(attempt))

    def there(self, attempt: int) -> bool:
        jobs = self.stage.api.get(self.stage.of("/apis/ray.io/v1", "rayjobs"))["items"]
        return any(one["metadata"]["name"] == f"{self.stage.name}-{attempt}" for one in jobs)

    def takes_up(self, attempt: int) -> None:
        """Its finalizer, and the first status."""
        self.stage.api.merge(self.path(attempt), {"metadata": {"finalizers": [FINALIZER]}}, manager="kuberay")
        self.says(attempt, jobDeploymentStatus="Initializing", startTime="2030-01-01T00:00:00Z")

    def says(self, attempt: int, **status: Any) -> None:
        whole = {"failed": 0, "succeeded": 0, "rayClusterName": f"{self.stage.name}-{attempt}-abcde", **status}
        told = {"status": whole}
        self.stage.api.merge(self.path(attempt, "status"), told, manager="kuberay")
        live = self.job(attempt)["status"]
        assert {key: live[key] for key in whole} == whole, "KubeRay's CRD knows these fields"

    def lets_go(self, attempt: int) -> None:
        """It has stopped the Ray job of a RayJob that is being deleted."""
        assert "deletionTimestamp" in self.job(attempt)["metadata"]
        self.stage.api.merge(self.path(attempt), {"metadata": {"finalizers": None}}, manager="kuberay")

    def suspends(self, attempt: int, flag: bool, **selectors: str) -> None:
        """Kueue, as it writes: the whole spec, with the flavour's node selectors put into every pod template."""
        live = self.job(attempt)
        cluster = live["spec"]["rayClusterSpec"]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            pod["nodeSelector"] = selectors
        live["spec"]["suspend"] = flag
        live["metadata"].pop("managedFields")
        self.stage.api.request("PUT", self.path(attempt), body=live, fieldManager="kueue")


@dataclass
class World:
    """One training, the operator that looks after it, and those who are played."""

    operator: LookingOperator
    stage: Stage
    kuberay: KubeRay

    async def rests(self) -> None:
        await self.operator.settles(self.stage.namespace, self.stage.name)

    async def begins(self, **spec: Any) -> None:
        self.stage.submit(**{"ray": {}, **spec})
        for pool in ("small", "large"):
            await self.operator.settles(self.stage.namespace, pool, kind="ExpertPool")
        await self.rests()

    async def runs(self, attempt: int, *, step: int = 1) -> None:
        await self.stage.tells(attempt, step)
        self.kuberay.says(attempt, **RUNNING, startTime="2030-01-01T00:00:00Z")
        await self.rests()
        assert self.stage.condition("Running") == ("True", "Training")
        assert self.stage.condition("ClusterReady") == ("True", "ClusterReady")

    def workers(self) -> int:
        deployment = self.stage.of("/apis/apps/v1", "deployments", f"{self.stage.name}-workers")
        return int(self.stage.api.get(deployment)["spec"]["replicas"])

    def message(self, kind: str) -> str:
        return next(str(one["message"]) for one in self.stage.status()["conditions"] if one["type"] == kind)
