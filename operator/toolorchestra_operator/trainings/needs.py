"""What a training refers to and the operator does not make: Secrets, claims, storage classes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from toolorchestra_operator.kubernetes.manifest import Manifest, Ref
from toolorchestra_operator.planning.needs import Need, storage_class
from toolorchestra_operator.trainings.references import described, named_claim

_SKIPPED = ("spec.export",)
"""Where the model goes at the end."""


def needs(parent: Manifest, *, has_storage: bool) -> tuple[Need, ...]:
    """Everything that the spec refers to, in the order of its fields; read of the raw object, so that it is told even
    of a spec that the models refuse. With `has_storage` the volume is made: its class has done its part.
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
    """A field of an object; "" where there is none, or it is no text: the models refuse that."""
    found = value.get(name) if isinstance(value, Mapping) else None
    return found if isinstance(found, str) else ""
