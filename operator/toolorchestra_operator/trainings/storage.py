"""The volume of a training. A retained one has no owner: the model outlives the resource."""

from __future__ import annotations

from typing import Any

from toolorchestra.api.model import EphemeralClaim
from toolorchestra_operator.trainings.desired import Desired


def storage_claim(desired: Desired) -> dict[str, Any] | None:
    """The claim to make; None where one that is there already is used."""
    storage = desired.spec.storage
    if storage.type != "EphemeralClaim":
        return None
    wanted = storage.ephemeral_claim or EphemeralClaim()
    names = desired.names
    metadata = names.metadata(names.storage, "storage")
    if storage.retention_policy == "Retain":
        del metadata["ownerReferences"]
    spec: dict[str, Any] = {
        "accessModes": list(wanted.access_modes),
        "resources": {"requests": {"storage": str(wanted.size)}},
    }
    if wanted.storage_class_name:
        spec["storageClassName"] = wanted.storage_class_name
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}
