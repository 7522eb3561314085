"""What stays on the cluster after a training is deleted. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHORT_UID = 8


def claim_of(training: Mapping[str, Any]) -> str | None:
    """Return the name of the training's PersistentVolumeClaim; None where its storage is an object store."""
    storage = training["spec"].get("storage") or {}
    if storage.get("type") == "URI":
        return None
    existing = storage.get("existingClaim") or {}
    return str(existing.get("claimName") or f"{training['metadata']['name']}-storage")


def folder_of(training: Mapping[str, Any]) -> str:
    """Return the training's folder on the volume; its name has the UID, because trainings may share a volume."""
    path = str(((training["spec"].get("storage") or {}).get("existingClaim") or {}).get("path") or "").strip("/")
    name, uid = training["metadata"]["name"], training["metadata"]["uid"].replace("-", "")[:SHORT_UID]
    return f"{path}/{name}-{uid}" if path else f"{name}-{uid}"


def retained(training: Mapping[str, Any]) -> str:
    """Return what is kept after the deletion, as the end of a sentence."""
    storage = training["spec"].get("storage") or {}
    claim, what = claim_of(training), "checkpoints, journal and exported model"
    if claim is None:
        return f"kept: its {what} in {storage.get('uri')}"
    if storage.get("type") == "ExistingClaim":
        return f"kept: its {what} in PersistentVolumeClaim {claim}, folder {folder_of(training)}"
    if storage.get("retentionPolicy", "Retain") == "Retain":
        return f"kept: PersistentVolumeClaim {claim} with its {what}, folder {folder_of(training)}"
    return f"nothing is kept: PersistentVolumeClaim {claim} is deleted with it (retentionPolicy: Delete)"
