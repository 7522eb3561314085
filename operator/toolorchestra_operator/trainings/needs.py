"""What a training refers to and the operator does not create: Secrets, claims, storage classes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from toolorchestra_operator.kubernetes.manifest import Manifest, Ref
from toolorchestra_operator.planning.needs import Need, storage_class
from toolorchestra_operator.trainings.references import described, named_claim

_SKIPPED = ("spec.export",)
"""Paths that are not read: where the model goes at the end."""


def needs(parent: Manifest, *, has_storage: bool) -> tuple[Need, ...]:
    """Return everything that the spec refers to, in the order of its fields. It reads the raw object, so that the needs
    of a spec that the models refuse are known too. `has_storage`: the volume exists, and its class is not needed again.
    """
    return tuple(_needs(parent, parent["metadata"]["namespace"], has_storage=has_storage))


def _needs(parent: Manifest, namespace: str, *, has_storage: bool) -> Iterator[Need]:
    skip = (*_SKIPPED, "spec.storage.ephemeralClaim") if has_storage else _SKIPPED
    for path, value in described(parent, skip=skip):
        where, name = ".".join(path), path[-1]
        if (claim := named_claim(path, value)) is not None:
            yield Need(where, Ref("v1", "PersistentVolumeClaim", namespace, claim))
        elif name.lower().endswith("secretref") and (secret := _text(value, "name")) and (key := _text(value, "key")):
            yield Need(where, Ref("v1", "Secret", namespace, secret), key)
        elif name == "existingClaim" and (claim := _text(value, "claimName")):
            yield Need(f"{where}.claimName", Ref("v1", "PersistentVolumeClaim", namespace, claim))
        elif name == "ephemeralClaim" and (wanted := _text(value, "storageClassName")):
            yield Need(f"{where}.storageClassName", storage_class(wanted))


def _text(value: object, name: str) -> str:
    """Return a field of an object; "" if it is absent or not a text, which the models refuse."""
    found = value.get(name) if isinstance(value, Mapping) else None
    return found if isinstance(found, str) else ""
