"""What a pool refers to and the operator does not make: Secrets, ConfigMaps, claims, storage classes. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from toolorchestra.api.pool import ExpertPool, ExpertPoolSpec
from toolorchestra_operator.manifest import Ref
from toolorchestra_operator.needs import Need, storage_class


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
        yield Need("spec.vllm.cache.ephemeralClaim.storageClassName", storage_class(name))
