"""The parent of an object: by its controlling owner, else by the label of all objects that the operator makes."""

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
"""Label selector of all objects that the operator makes."""


PARENTS: Final = (TRAININGS, POOLS)
OPTIONAL: Final = frozenset({RAY_JOBS})
"""Kinds that other operators install; they are watched if they are served."""
CHILDREN: Final = (
    *(DEPLOYMENTS, JOBS, SERVICES, CONFIG_MAPS, CLAIMS, NETWORK_POLICIES, DISRUPTION_BUDGETS),
    RAY_JOBS,
)
"""Children whose events trigger a reconcile of their parent. Two kinds are not watched: Secrets (watching them needs a
right that the operator does not ask for), and pods, because their Deployments and Jobs report what matters. The resync
finds changes of these."""


def key_of(parent: Mapping[str, Any]) -> Key | None:
    """Return the key of a parent; None: the object is not a parent."""
    kind = next((kind for kind in PARENT_KINDS if kind == parent["kind"]), None)
    return None if kind is None else Key(kind, parent["metadata"]["namespace"], parent["metadata"]["name"])


def parent_of(child: Mapping[str, Any]) -> Key | None:
    """Return the key of the child's parent; None: the child is not ours, whatever its labels say."""
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
