"""The volumes that are created for a training. A retained one has no owner, because the model is kept longer than the
resource. Its annotation says for which training it was created; another one uses it only by name (`ExistingClaim`).
"""

from __future__ import annotations

from typing import Any

from toolorchestra_operator.kubernetes.ownership import MADE_FOR
from toolorchestra_operator.planning.claims import claim
from toolorchestra_operator.trainings.desired import Desired


def storage_claim(desired: Desired) -> dict[str, Any] | None:
    """Return the claim of checkpoints and the journal; None: an existing claim is used."""
    storage = desired.spec.storage
    if storage.type != "EphemeralClaim":
        return None
    metadata = desired.names.metadata(desired.names.storage, "storage")
    if storage.retention_policy == "Retain":
        del metadata["ownerReferences"]
        metadata["annotations"] = {MADE_FOR: desired.names.uid}
    return claim(storage.ephemeral_claim, metadata)


def cache_claim(desired: Desired) -> dict[str, Any] | None:
    """Return the claim of weights and compiled code; None: there is none, or an existing claim is used."""
    cache = desired.spec.ray.model_cache
    if cache is None or cache.type != "EphemeralClaim":
        return None
    return claim(cache.ephemeral_claim, desired.names.metadata(desired.names.model_cache, "storage"))
