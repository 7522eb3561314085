"""The volumes that are made for a training. A retained one has no owner: the model outlives the resource. It says whom
it was made for, and is no other training's unless that one names it (`ExistingClaim`).
"""

from __future__ import annotations

from typing import Any

from toolorchestra_operator.kubernetes.ownership import MADE_FOR
from toolorchestra_operator.planning.claims import claim
from toolorchestra_operator.trainings.desired import Desired


def storage_claim(desired: Desired) -> dict[str, Any] | None:
    """Of checkpoints and the journal; None where a claim that is there already is used."""
    storage = desired.spec.storage
    if storage.type != "EphemeralClaim":
        return None
    metadata = desired.names.metadata(desired.names.storage, "storage")
    if storage.retention_policy == "Retain":
        del metadata["ownerReferences"]
        metadata["annotations"] = {MADE_FOR: desired.names.uid}
    return claim(storage.ephemeral_claim, metadata)


def cache_claim(desired: Desired) -> dict[str, Any] | None:
    """Of weights and compiled code; None where none is asked for, or one that is there already is used."""
    cache = desired.spec.ray.model_cache
    if cache is None or cache.type != "EphemeralClaim":
        return None
    return claim(cache.ephemeral_claim, desired.names.metadata(desired.names.model_cache, "storage"))
