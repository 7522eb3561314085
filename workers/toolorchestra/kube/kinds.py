"""The kinds that the operator and the command line read or make, with their paths at the API server.

These kinds need no API discovery.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from toolorchestra.api.base import API_VERSION
from toolorchestra.api.crd import FACTS


@dataclass(frozen=True)
class Kind:
    """One kind in one version."""

    api_version: str
    name: str
    plural: str
    namespaced: bool = True

    @property
    def key(self) -> tuple[str, str]:
        """`apiVersion` and `kind`, as in objects."""
        return self.api_version, self.name

    @property
    def group(self) -> str:
        """API group; "" for the core group."""
        return self.api_version.rpartition("/")[0]

    @property
    def version(self) -> str:
        return self.api_version.rpartition("/")[2]

    @property
    def resource(self) -> str:
        """Name in RBAC and in error messages: `pods`, `deployments.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def group_path(self) -> str:
        return group_path(self.api_version)

    def path(self, *, namespace: str = "", name: str = "", part: str = "") -> str:
        """Return the path of a collection (`name` ""), of an object, or of its subresource (`part`)."""
        path = self.group_path
        if namespace and self.namespaced:
            path += f"/namespaces/{quote(namespace, safe='')}"
        return path + f"/{self.plural}" + "".join(f"/{quote(each, safe='')}" for each in (name, part) if each)


def group_path(api_version: str) -> str:
    """Return the path of an API version: `v1` → `/api/v1`, `apps/v1` → `/apis/apps/v1`."""
    return f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"


_OURS = {kind.__name__: Kind(API_VERSION, kind.__name__, facts.plural) for kind, facts in FACTS.items()}
TRAININGS: Final = _OURS["OrchestratorTraining"]
POOLS: Final = _OURS["ExpertPool"]
BY_KIND: Final[Mapping[str, Kind]] = {one.name: one for one in (TRAININGS, POOLS)}

CLAIMS: Final = Kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims")
CONFIG_MAPS: Final = Kind("v1", "ConfigMap", "configmaps")
CRDS: Final = Kind("apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", namespaced=False)
DEPLOYMENTS: Final = Kind("apps/v1", "Deployment", "deployments")
DISRUPTION_BUDGETS: Final = Kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets")
CORE_EVENTS: Final = Kind("v1", "Event", "events")
EVENTS: Final = Kind("events.k8s.io/v1", "Event", "events")
JOBS: Final = Kind("batch/v1", "Job", "jobs")
LEASES: Final = Kind("coordination.k8s.io/v1", "Lease", "leases")
LOCAL_QUEUES: Final = Kind("kueue.x-k8s.io/v1beta2", "LocalQueue", "localqueues")
OLDER_LOCAL_QUEUES: Final = Kind("kueue.x-k8s.io/v1beta1", "LocalQueue", "localqueues")
NAMESPACES: Final = Kind("v1", "Namespace", "namespaces", namespaced=False)
NETWORK_POLICIES: Final = Kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies")
NODES: Final = Kind("v1", "Node", "nodes", namespaced=False)
PODS: Final = Kind("v1", "Pod", "pods")
PRIORITY_CLASSES: Final = Kind("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", namespaced=False)
RAY_CLUSTERS: Final = Kind("ray.io/v1", "RayCluster", "rayclusters")
RAY_JOBS: Final = Kind("ray.io/v1", "RayJob", "rayjobs")
SECRETS: Final = Kind("v1", "Secret", "secrets")
SERVICES: Final = Kind("v1", "Service", "services")
SERVICE_ACCOUNTS: Final = Kind("v1", "ServiceAccount", "serviceaccounts")
STORAGE_CLASSES: Final = Kind("storage.k8s.io/v1", "StorageClass", "storageclasses", namespaced=False)
WORKLOADS: Final = Kind("kueue.x-k8s.io/v1beta2", "Workload", "workloads")
OLDER_WORKLOADS: Final = Kind("kueue.x-k8s.io/v1beta1", "Workload", "workloads")

KINDS: Final[Mapping[tuple[str, str], Kind]] = {
    one.key: one for one in list(globals().values()) if isinstance(one, Kind)
}
"""All kinds, by `apiVersion` and `kind`."""

MADE: Final = (
    *(
        CONFIG_MAPS,
        CLAIMS,
        SECRETS,
        SERVICES,
        SERVICE_ACCOUNTS,
        DEPLOYMENTS,
        JOBS,
        NETWORK_POLICIES,
        DISRUPTION_BUDGETS,
    ),
    RAY_JOBS,
)
"""Kinds that the operator makes. It reads their schemas, if the server has them."""
