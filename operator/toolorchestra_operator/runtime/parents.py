"""Which parent an object belongs to: by its controlling owner, else by the label that all of ours carry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from toolorchestra_operator.kubernetes.kinds import POOLS, RAY_JOB, TRAININGS, Resource, object_path
from toolorchestra_operator.kubernetes.manifest import MANAGER, Key, Kind

GROUP: Final = "toolorchestra.dev"
PARENT_KINDS: Final[tuple[Kind, ...]] = ("OrchestratorTraining", "ExpertPool")
PARENT_LABELS: Final[Mapping[str, Kind]] = {
    f"{GROUP}/training": "OrchestratorTraining",
    f"{GROUP}/pool": "ExpertPool",
}
OURS: Final = f"app.kubernetes.io/managed-by={MANAGER}"
"""The label selector of everything that we made."""


@dataclass(frozen=True)
class Watched:
    """A kind whose objects are watched."""

    group: str
    version: str
    plural: str
    kind: str
    optional: bool = False
    """Others bring it (KubeRay)."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    def path(self, namespace: str) -> str:
        """Where they are listed and watched; `namespace` "": in all."""
        return object_path(self.api_version, Resource(self.plural), namespace=namespace)


PARENTS: Final = tuple(
    Watched(GROUP, api_version.partition("/")[2], plural, kind)
    for (api_version, kind), plural in ((TRAININGS, "orchestratortrainings"), (POOLS, "expertpools"))
)
CHILDREN: Final = (
    Watched("apps", "v1", "deployments", "Deployment"),
    Watched("batch", "v1", "jobs", "Job"),
    Watched("", "v1", "services", "Service"),
    Watched("", "v1", "configmaps", "ConfigMap"),
    Watched("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim"),
    Watched("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy"),
    Watched("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget"),
    Watched("ray.io", "v1", "rayjobs", RAY_JOB[1], optional=True),
)
"""Children whose events wake their parent. Not among them: Secrets (to watch them all is a right that we do not ask
for), and pods, whose Deployments and Jobs say what matters: changes of these are seen by the resync."""


def key_of(parent: Mapping[str, Any]) -> Key | None:
    """A parent's own key; None: it is no parent."""
    kind = next((kind for kind in PARENT_KINDS if kind == parent["kind"]), None)
    return None if kind is None else Key(kind, parent["metadata"]["namespace"], parent["metadata"]["name"])


def parent_of(child: Mapping[str, Any]) -> Key | None:
    """The key of the parent; None: it is not ours, whatever its labels say."""
    metadata = child["metadata"]
    for owner in metadata.get("ownerReferences") or ():
        if owner.get("controller") and owner["apiVersion"].partition("/")[0] == GROUP:
            kind = next((kind for kind in PARENT_KINDS if kind == owner["kind"]), None)
            return None if kind is None else Key(kind, metadata["namespace"], owner["name"])
    labels = metadata.get("labels") or {}
    for label, kind in PARENT_LABELS.items():
        if name := labels.get(label):
            return Key(kind, metadata["namespace"], name)
    return None
