"""What outlives a training that is deleted. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHORT_UID = 8


def claim_of(training: Mapping[str, Any]) -> str | None:
    """The claim that its storage is; None: it is an object store."""
    storage = training["spec"].get("storage") or {}
    if storage.get("type") == "URI":
        return None
    existing = storage.get("existingClaim") or {}
    return str(existing.get("claimName") or f"{training['metadata']['name']}-storage")


def folder_of(training: Mapping[str, Any]) -> str:
    """Its folder in the claim, by UID: a volume may be shared."""
    path = str(((training["spec"].get("storage") or {}).get("existingClaim") or {}).get("path") or "").strip("/")
    name, uid = training["metadata"]["name"], training["metadata"]["uid"].replace("-", "")[:SHORT_UID]
    return f"{path}/{name}-{uid}" if path else f"{name}-{uid}"


def retained(training: Mapping[str, Any]) -> str:
    """What stays and what goes, as the end of a sentence."""
    storage = training["spec"].get("storage") or {}
    claim, what = claim_of(training), "checkpoints, journal and exported model"
    if claim is None:
        return f"kept: its {what} in {storage.get('uri')}"
    if storage.get("type") == "ExistingClaim":
        return f"kept: its {what} in PersistentVolumeClaim {claim}, folder {folder_of(training)}"
    if storage.get("retentionPolicy", "Retain") == "Retain":
        return f"kept: PersistentVolumeClaim {claim} with its {what}, folder {folder_of(training)}"
    return f"nothing is kept: PersistentVolumeClaim {claim} goes with it (retentionPolicy: Delete)"
