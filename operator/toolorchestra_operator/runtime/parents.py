"""Which parent an object belongs to: by its controlling owner, else by the label that all of ours carry."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from toolorchestra.contract.labels import MANAGED_BY_LABEL, MANAGER
from toolorchestra.kube.kinds import (
    CLAIMS,
    CONFIG_MAPS,
    DEPLOYMENTS,
    DISRUPTION_BUDGETS,
    JOBS,
    NETWORK_POLICIES,
    POOLS,
    RAY_JOBS,
    SERVICES,
    TRAININGS,
)
from toolorchestra_operator.kubernetes.manifest import Key, ParentKind

GROUP: Final = "toolorchestra.dev"
PARENT_KINDS: Final[tuple[ParentKind, ...]] = ("OrchestratorTraining", "ExpertPool")
PARENT_LABELS: Final[Mapping[str, ParentKind]] = {
    f"{GROUP}/training": "OrchestratorTraining",
    f"{GROUP}/pool": "ExpertPool",
}
OURS: Final = f"{MANAGED_BY_LABEL}={MANAGER}"
"""The label selector of everything that we made."""


PARENTS: Final = (TRAININGS, POOLS)
OPTIONAL: Final = frozenset({RAY_JOBS})
"""Others bring them: watched where they are served."""
CHILDREN: Final = (
    *(DEPLOYMENTS, JOBS, SERVICES, CONFIG_MAPS, CLAIMS, NETWORK_POLICIES, DISRUPTION_BUDGETS),
    RAY_JOBS,
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
