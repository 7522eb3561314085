"""The kinds that the command line reads or makes, and where the API server has them."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

from toolorchestra.api.base import API_VERSION
from toolorchestra.api.crd import FACTS


@dataclass(frozen=True)
class Kind:
    """One kind in one version."""

    api_version: str
    plural: str
    namespaced: bool = True

    @property
    def group(self) -> str:
        """ "" for the core group."""
        return self.api_version.rpartition("/")[0]

    @property
    def resource(self) -> str:
        """As RBAC and error messages call it: `pods`, `deployments.apps`."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def group_path(self) -> str:
        return f"/apis/{self.api_version}" if self.group else f"/api/{self.api_version}"

    def path(self, *, namespace: str = "", name: str = "", part: str = "") -> str:
        """Of a collection, an object, or its sub-resource."""
        path = self.group_path
        if namespace and self.namespaced:
            path += f"/namespaces/{quote(namespace, safe='')}"
        return path + f"/{self.plural}" + "".join(f"/{quote(each, safe='')}" for each in (name, part) if each)


_OURS = {kind.__name__: Kind(API_VERSION, facts.plural) for kind, facts in FACTS.items()}
TRAININGS = _OURS["OrchestratorTraining"]
POOLS = _OURS["ExpertPool"]
BY_KIND = {"OrchestratorTraining": TRAININGS, "ExpertPool": POOLS}

CLAIMS = Kind("v1", "persistentvolumeclaims")
CONFIG_MAPS = Kind("v1", "configmaps")
CRDS = Kind("apiextensions.k8s.io/v1", "customresourcedefinitions", namespaced=False)
DEPLOYMENTS = Kind("apps/v1", "deployments")
EVENTS = Kind("v1", "events")
JOBS = Kind("batch/v1", "jobs")
LOCAL_QUEUES = Kind("kueue.x-k8s.io/v1beta2", "localqueues")
OLDER_LOCAL_QUEUES = Kind("kueue.x-k8s.io/v1beta1", "localqueues")
NAMESPACES = Kind("v1", "namespaces", namespaced=False)
NODES = Kind("v1", "nodes", namespaced=False)
PODS = Kind("v1", "pods")
PRIORITY_CLASSES = Kind("scheduling.k8s.io/v1", "priorityclasses", namespaced=False)
RAY_JOBS = Kind("ray.io/v1", "rayjobs")
SECRETS = Kind("v1", "secrets")
STORAGE_CLASSES = Kind("storage.k8s.io/v1", "storageclasses", namespaced=False)
