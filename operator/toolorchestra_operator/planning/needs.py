"""What a resource refers to and the operator does not create: Secrets, ConfigMaps, claims, storage classes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from toolorchestra.api.conditions import Reason
from toolorchestra.kube.errors import Forbidden
from toolorchestra_operator.kubernetes.manifest import Manifest, Ref

_REASONS: Final[Mapping[str, Reason]] = {
    "Secret": Reason.SECRET_NOT_FOUND,
    "ConfigMap": Reason.CONFIG_MAP_NOT_FOUND,
    "PersistentVolumeClaim": Reason.CLAIM_NOT_FOUND,
    "StorageClass": Reason.STORAGE_CLASS_NOT_FOUND,
}


_NAME: Final = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")
"""An object's name. Any other text in a spec (it may be cut out of a URI) is no name, and no path to request."""


@dataclass(frozen=True)
class Need:
    """An object, and its key ("": any), to which the field at `path` refers."""

    path: str
    ref: Ref
    key: str = ""
    label: tuple[str, str] | None = None
    """A label that the object must have: it shows that someone who may change the object agrees."""


@dataclass(frozen=True)
class Missing:
    """A need that is not met: why the resource cannot be accepted, and what to do."""

    reason: Reason
    message: str


class NeedsReader(Protocol):
    """Reads one object."""

    async def get(self, ref: Ref) -> dict[str, Any] | None: ...


def storage_class(name: str) -> Ref:
    return Ref("storage.k8s.io/v1", "StorageClass", "", name)


def missing(need: Need, live: Manifest | None) -> Missing | None:
    """Return what is wrong with `need`, given the live object; None: the need is met."""
    ref, reason = need.ref, _REASONS[need.ref.kind]
    where = f" in namespace {ref.namespace}" if ref.namespace else ""
    if live is None:
        return Missing(reason, f"{need.path}: there is no {ref.kind} {ref.name}{where}: create it, or name another")
    if need.label and (live["metadata"].get("labels") or {}).get(need.label[0]) != need.label[1]:
        label = "=".join(need.label)
        remedy = f"someone who may change it can allow it: kubectl label -n {ref.namespace} secret/{ref.name} {label}"
        return Missing(Reason.SECRET_NOT_ALLOWED, f"{need.path}: {ref.kind} {ref.name}{where} has no {label}; {remedy}")
    if need.key and need.key not in keys(live):
        return Missing(reason, f"{need.path}: {ref.kind} {ref.name}{where} has no key {need.key}: add it")
    return None


async def look(api: NeedsReader, needs: Iterable[Need]) -> tuple[tuple[Missing, ...], dict[Ref, Manifest]]:
    """Return the needs that are not met, and the live objects by their reference."""
    held: dict[Ref, Manifest] = {}
    lacking = []
    for need in needs:
        try:
            live = held.get(need.ref) or (await api.get(need.ref) if _NAME.fullmatch(need.ref.name) else None)
        except Forbidden:
            if need.ref.namespace:
                raise
            continue  # an operator of some namespaces may not read storage classes: the claim shows the error
        if live is not None:
            held[need.ref] = live
        if (found := missing(need, live)) is not None:
            lacking.append(found)
    return tuple(lacking), held


def keys(live: Manifest) -> Mapping[str, Any]:
    """Return the keys of a Secret or a ConfigMap."""
    return {**(live.get("data") or {}), **(live.get("binaryData") or {})}
