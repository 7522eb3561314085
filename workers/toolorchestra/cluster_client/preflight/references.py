"""Finds the objects that resources refer to and that must exist already: Secrets, ConfigMaps, claims, …. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolorchestra.api.pool import SECRET_LABEL
from toolorchestra.api.resource import Resource
from toolorchestra.kube import kinds
from toolorchestra.kube.kinds import Kind


@dataclass(frozen=True, order=True)
class Reference:
    """An object that a field refers to; `key`: the key in it, where the field names one."""

    kind: str
    name: str
    key: str = ""


KINDS: dict[str, Kind] = {
    "Secret": kinds.SECRETS,
    "ConfigMap": kinds.CONFIG_MAPS,
    "PersistentVolumeClaim": kinds.CLAIMS,
    "StorageClass": kinds.STORAGE_CLASSES,
    "PriorityClass": kinds.PRIORITY_CLASSES,
    "LocalQueue": kinds.LOCAL_QUEUES,
}

_BY_FIELD = {
    "storageClassName": "StorageClass",
    "priorityClassName": "PriorityClass",
    "queueName": "LocalQueue",
    "claimName": "PersistentVolumeClaim",
}


def references(resources: Sequence[Resource]) -> dict[Reference, tuple[str, ...]]:
    """Return every reference, with the fields (`Kind/name: path`) that name it."""
    found: dict[Reference, list[str]] = {}
    for resource in resources:
        document = resource.model_dump(mode="json", by_alias=True, exclude_none=True)
        subject = f"{document['kind']}/{document['metadata']['name']}"
        for reference, path in _walk(document["spec"], "spec"):
            found.setdefault(reference, []).append(f"{subject}: {path}")
    return {reference: tuple(paths) for reference, paths in sorted(found.items())}


def _walk(value: Any, path: str) -> Iterator[tuple[Reference, str]]:
    if isinstance(value, str):
        if value.startswith("pvc://"):
            yield Reference("PersistentVolumeClaim", value.removeprefix("pvc://").partition("/")[0]), path
        return
    if isinstance(value, list):
        for index, part in enumerate(value):
            yield from _walk(part, f"{path}[{index}]")
        return
    if not isinstance(value, Mapping):
        return
    for key, part in value.items():
        yield from _field(str(key), part, f"{path}.{key}")


def _field(key: str, part: Any, path: str) -> Iterator[tuple[Reference, str]]:
    if key.lower().endswith("secretref") and isinstance(part, Mapping):
        yield Reference("Secret", part["name"], part.get("key", "")), path
    elif key == "configMapKeyRef" and isinstance(part, Mapping):
        yield Reference("ConfigMap", part["name"], part.get("key", "")), path
    elif key == "imagePullSecrets" and isinstance(part, list):
        for one in part:
            yield Reference("Secret", one["name"]), path
    elif key in _BY_FIELD and isinstance(part, str):
        yield Reference(_BY_FIELD[key], part), path
    else:
        yield from _walk(part, path)


def needs_default_class(resources: Sequence[Resource]) -> tuple[str, ...]:
    """Return the fields of volumes that will be created and name no storage class."""
    found = []
    for resource in resources:
        document = resource.model_dump(mode="json", by_alias=True, exclude_none=True)
        spec, subject = document["spec"], f"{document['kind']}/{document['metadata']['name']}"
        volumes = {"spec.storage": spec.get("storage"), "spec.vllm.cache": (spec.get("vllm") or {}).get("cache")}
        for path, volume in volumes.items():
            made = volume is not None and volume["type"] == "EphemeralClaim"
            if made and not (volume.get("ephemeralClaim") or {}).get("storageClassName"):
                found.append(f"{subject}: {path}")
    return tuple(found)


def for_pools(reference: Reference, paths: Sequence[str]) -> bool:
    """Return whether a pool refers to this Secret in `paths`: such a Secret needs a label."""
    return reference.kind == "Secret" and any(
        path.startswith("ExpertPool/") and ".imagePullSecrets" not in path for path in paths
    )


def agreement(reference: Reference, namespace: str) -> str:
    """Return the command that gives the Secret the label for pools."""
    return f"kubectl label secret {reference.name} -n {namespace} {'='.join(SECRET_LABEL)}"


def remedy(reference: Reference, namespace: str) -> str:
    """Return what to do when the object does not exist."""
    match reference.kind:
        case "Secret":
            key = reference.key or "KEY"
            return f"kubectl create secret generic {reference.name} -n {namespace} --from-literal {key}=…"
        case "ConfigMap":
            return f"kubectl create configmap {reference.name} -n {namespace} --from-file {reference.key or 'KEY'}=FILE"
        case "PersistentVolumeClaim":
            return f"create the claim in namespace {namespace}, or name one that exists"
        case "StorageClass":
            return "name one of: kubectl get storageclass"
        case "PriorityClass":
            return "name one of: kubectl get priorityclass"
        case _:
            return (
                f"create the LocalQueue in namespace {namespace}, or name one of: kubectl get localqueue -n {namespace}"
            )
