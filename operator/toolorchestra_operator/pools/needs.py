"""What a pool refers to and the operator does not make: Secrets, ConfigMaps, claims, storage classes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from toolorchestra.api.conditions import Reason
from toolorchestra.api.pool import ExpertPool, ExpertPoolSpec
from toolorchestra_operator.manifest import Manifest, Ref

_REASONS: Final[Mapping[str, Reason]] = {
    "Secret": Reason.SECRET_NOT_FOUND,
    "ConfigMap": Reason.CONFIG_MAP_NOT_FOUND,
    "PersistentVolumeClaim": Reason.CLAIM_NOT_FOUND,
    "StorageClass": Reason.STORAGE_CLASS_NOT_FOUND,
}


@dataclass(frozen=True)
class Need:
    """An object, and the key in it ("": any), that the field at `path` refers to."""

    path: str
    ref: Ref
    key: str = ""


@dataclass(frozen=True)
class Missing:
    """A need that is not met: why the pool cannot be accepted, and what to do."""

    reason: Reason
    message: str


def needs(pool: ExpertPool, *, namespace: str) -> tuple[Need, ...]:
    """Everything that the pool refers to, in the order of its fields."""
    return tuple(_needs(pool.spec, namespace))


def _needs(spec: ExpertPoolSpec, namespace: str) -> Iterator[Need]:
    def here(kind: str, name: str) -> Ref:
        return Ref("v1", kind, namespace, name)

    if spec.description_from is not None:
        text = spec.description_from.config_map_key_ref
        yield Need("spec.descriptionFrom.configMapKeyRef", here("ConfigMap", text.name), text.key)
    if spec.endpoint is not None and (key := spec.endpoint.api_key_secret_ref) is not None:
        yield Need("spec.endpoint.apiKeySecretRef", here("Secret", key.name), key.key)
    if spec.vllm is None:
        return
    if (token := spec.vllm.model.token_secret_ref) is not None:
        yield Need("spec.vllm.model.tokenSecretRef", here("Secret", token.name), token.key)
    scheme, _, rest = spec.vllm.model.uri.partition("://")
    if scheme == "pvc":
        yield Need("spec.vllm.model.uri", here("PersistentVolumeClaim", rest.partition("/")[0]))
    cache = spec.vllm.cache
    if cache is not None and cache.existing_claim is not None:
        claim = here("PersistentVolumeClaim", cache.existing_claim.claim_name)
        yield Need("spec.vllm.cache.existingClaim.claimName", claim)
    if cache is not None and cache.ephemeral_claim is not None and (name := cache.ephemeral_claim.storage_class_name):
        yield Need(
            "spec.vllm.cache.ephemeralClaim.storageClassName", Ref("storage.k8s.io/v1", "StorageClass", "", name)
        )


def missing(need: Need, live: Manifest | None) -> Missing | None:
    """What is wrong with `need`, given what is there; None: it is met."""
    ref, reason = need.ref, _REASONS[need.ref.kind]
    where = f" in namespace {ref.namespace}" if ref.namespace else ""
    if live is None:
        return Missing(reason, f"{need.path}: there is no {ref.kind} {ref.name}{where}: make it, or name another")
    if need.key and need.key not in keys(live):
        return Missing(reason, f"{need.path}: {ref.kind} {ref.name}{where} has no key {need.key}: add it")
    return None


def keys(live: Manifest) -> Mapping[str, Any]:
    """The keys of a Secret or a ConfigMap."""
    return {**(live.get("data") or {}), **(live.get("binaryData") or {})}
