"""A parent's identity, and the metadata by which it owns the objects that the operator creates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from toolorchestra.contract.labels import MANAGED_BY_LABEL, MANAGER
from toolorchestra_operator.kubernetes.manifest import Manifest


@dataclass(frozen=True, order=True)
class Owner:
    """One parent as owner of objects."""

    about: ClassVar[tuple[str, str]]
    """The parent's API version and kind."""

    name: str
    namespace: str
    uid: str

    @classmethod
    def of(cls, parent: Manifest) -> Self:
        metadata = parent["metadata"]
        return cls(metadata["name"], metadata["namespace"], metadata["uid"])

    def owned(self, name: str, labels: Mapping[str, str]) -> dict[str, Any]:
        """Return the metadata of an object that Kubernetes deletes after its parent."""
        api_version, kind = self.about
        reference = {"apiVersion": api_version, "kind": kind, "name": self.name, "uid": self.uid}
        return {
            "name": name,
            "namespace": self.namespace,
            "labels": dict(labels),
            "ownerReferences": [{**reference, "controller": True, "blockOwnerDeletion": True}],
        }


def our_labels(component: str) -> dict[str, str]:
    """Return the labels of every object and pod that the operator creates."""
    return {
        "app.kubernetes.io/name": "toolorchestra",
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/part-of": "toolorchestra",
        MANAGED_BY_LABEL: MANAGER,
    }
