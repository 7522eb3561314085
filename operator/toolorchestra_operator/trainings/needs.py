"""What a training refers to and the operator does not make: Secrets, claims, storage classes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from toolorchestra_operator.manifest import Manifest, Ref
from toolorchestra_operator.needs import Need, storage_class

_SKIPPED = ("export", "podTemplate")
"""Where the model goes at the end, and what Kubernetes alone understands."""


def needs(parent: Manifest, *, has_storage: bool) -> tuple[Need, ...]:
    """Everything that the spec refers to, in the order of its fields; read of the raw object, so that it is told even
    of a spec that the models refuse. With `has_storage` the volume is made: its class has done its part.
    """
    skip = ("spec.storage.ephemeralClaim",) if has_storage else ()
    return tuple(_needs(parent["spec"], ("spec",), parent["metadata"]["namespace"], skip))


def _needs(value: Any, path: tuple[str, ...], namespace: str, skip: tuple[str, ...]) -> Iterator[Need]:
    where = ".".join(path)
    if where in skip or path[-1] in _SKIPPED:
        return
    if isinstance(value, str) and value.startswith("pvc://"):
        claim = value.removeprefix("pvc://").partition("/")[0]
        yield Need(where, Ref("v1", "PersistentVolumeClaim", namespace, claim))
    elif isinstance(value, list):
        for i, part in enumerate(value):
            yield from _needs(part, (*path, str(i)), namespace, skip)
    elif isinstance(value, Mapping):
        if path[-1].lower().endswith("secretref"):
            yield Need(where, Ref("v1", "Secret", namespace, value["name"]), value["key"])
        elif path[-1] == "existingClaim":
            yield Need(f"{where}.claimName", Ref("v1", "PersistentVolumeClaim", namespace, value["claimName"]))
        elif path[-1] == "ephemeralClaim" and (name := value.get("storageClassName")):
            yield Need(f"{where}.storageClassName", storage_class(name))
        else:
            for key, part in value.items():
                yield from _needs(part, (*path, key), namespace, skip)
