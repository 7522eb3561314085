"""The PersistentVolumeClaim of a volume that the operator creates for a resource. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolorchestra.api.model import EphemeralClaim


def claim(wanted: EphemeralClaim | None, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the PersistentVolumeClaim; `wanted` None: with the defaults."""
    wanted = wanted or EphemeralClaim()
    spec: dict[str, Any] = {
        "accessModes": list(wanted.access_modes),
        "resources": {"requests": {"storage": str(wanted.size)}},
    }
    if wanted.storage_class_name:
        spec["storageClassName"] = wanted.storage_class_name
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": dict(metadata), "spec": spec}
