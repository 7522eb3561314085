"""The kinds that the operator reads and writes, and where the API server has them: no discovery for what is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote


@dataclass(frozen=True)
class Resource:
    """How a kind is called in paths."""

    plural: str
    namespaced: bool = True


TRAININGS: Final = ("toolorchestra.dev/v1alpha1", "OrchestratorTraining")
POOLS: Final = ("toolorchestra.dev/v1alpha1", "ExpertPool")
RAY_JOB: Final = ("ray.io/v1", "RayJob")

RESOURCES: Final[Mapping[tuple[str, str], Resource]] = {
    ("v1", "ConfigMap"): Resource("configmaps"),
    ("v1", "Event"): Resource("events"),
    ("v1", "Namespace"): Resource("namespaces", namespaced=False),
    ("v1", "Node"): Resource("nodes", namespaced=False),
    ("v1", "PersistentVolumeClaim"): Resource("persistentvolumeclaims"),
    ("v1", "Pod"): Resource("pods"),
    ("v1", "Secret"): Resource("secrets"),
    ("v1", "Service"): Resource("services"),
    ("v1", "ServiceAccount"): Resource("serviceaccounts"),
    ("apps/v1", "Deployment"): Resource("deployments"),
    ("batch/v1", "Job"): Resource("jobs"),
    ("coordination.k8s.io/v1", "Lease"): Resource("leases"),
    ("events.k8s.io/v1", "Event"): Resource("events"),
    ("networking.k8s.io/v1", "NetworkPolicy"): Resource("networkpolicies"),
    ("policy/v1", "PodDisruptionBudget"): Resource("poddisruptionbudgets"),
    ("storage.k8s.io/v1", "StorageClass"): Resource("storageclasses", namespaced=False),
    RAY_JOB: Resource("rayjobs"),
    ("ray.io/v1", "RayCluster"): Resource("rayclusters"),
    ("kueue.x-k8s.io/v1beta2", "Workload"): Resource("workloads"),
    ("kueue.x-k8s.io/v1beta1", "Workload"): Resource("workloads"),
    TRAININGS: Resource("orchestratortrainings"),
    POOLS: Resource("expertpools"),
}
COMPARED: Final = (
    ("v1", "ConfigMap"),
    ("v1", "PersistentVolumeClaim"),
    ("v1", "Secret"),
    ("v1", "Service"),
    ("v1", "ServiceAccount"),
    ("apps/v1", "Deployment"),
    ("batch/v1", "Job"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("policy/v1", "PodDisruptionBudget"),
    RAY_JOB,
)
"""Kinds that are made: those whose schemas are wanted, where they are served."""


def group_path(api_version: str) -> str:
    """`v1` → `/api/v1`, `apps/v1` → `/apis/apps/v1`."""
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


def object_path(api_version: str, resource: Resource, *, namespace: str = "", name: str = "", part: str = "") -> str:
    """The path of a collection (`name` "") or an object, or of a sub-resource (`part`)."""
    path = group_path(api_version)
    if namespace and resource.namespaced:
        path += f"/namespaces/{quote(namespace, safe='')}"
    path += f"/{resource.plural}"
    if name:
        path += f"/{quote(name, safe='')}"
    return f"{path}/{part}" if part else path
