"""What a pool refers to and the operator does not create: Secrets, ConfigMaps, claims, storage classes. Pure.

A person who may create a pool can make the operator send a Secret's value to their URL, or mount it into their image,
without any right on Secrets. So a label on the Secret has to say that it is for pools.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from toolorchestra.api.base import SecretKeyRef
from toolorchestra.api.pool import SECRET_LABEL, ExpertPool, ExpertPoolSpec
from toolorchestra_operator.kubernetes.manifest import Ref
from toolorchestra_operator.planning.needs import Need, storage_class

_REFERENCES: Final = ("secret", "secretRef", "secretKeyRef", "nodePublishSecretRef")
"""Fields of a pod that hold `{name: …}` of a Secret; a volume's has `secretName`."""
_NAME: Final = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")


def needs(pool: ExpertPool, *, namespace: str, labelled: bool = True) -> tuple[Need, ...]:
    """Return everything that the pool refers to, in the order of its fields. `labelled`: Secrets need their label."""
    return tuple(_needs(pool.spec, namespace, SECRET_LABEL if labelled else None))


def _needs(spec: ExpertPoolSpec, namespace: str, label: tuple[str, str] | None) -> Iterator[Need]:
    def here(kind: str, name: str) -> Ref:
        return Ref("v1", kind, namespace, name)

    def secret(path: str, reference: SecretKeyRef) -> Need:
        return Need(path, here("Secret", reference.name), reference.key, label)

    if spec.description_from is not None:
        text = spec.description_from.config_map_key_ref
        yield Need("spec.descriptionFrom.configMapKeyRef", here("ConfigMap", text.name), text.key)
    if spec.endpoint is not None and (key := spec.endpoint.api_key_secret_ref) is not None:
        yield secret("spec.endpoint.apiKeySecretRef", key)
    if spec.vllm is None:
        return
    if (token := spec.vllm.model.token_secret_ref) is not None:
        yield secret("spec.vllm.model.tokenSecretRef", token)
    if label is not None:
        for path, kept in _secrets_in((spec.vllm.pod_template or {}).get("spec"), "spec.vllm.podTemplate.spec"):
            yield Need(path, here("Secret", kept), label=label)
    scheme, _, rest = spec.vllm.model.uri.partition("://")
    if scheme == "pvc":
        yield Need("spec.vllm.model.uri", here("PersistentVolumeClaim", rest.partition("/")[0]))
    cache = spec.vllm.cache
    if cache is not None and cache.existing_claim is not None:
        claim = here("PersistentVolumeClaim", cache.existing_claim.claim_name)
        yield Need("spec.vllm.cache.existingClaim.claimName", claim)
    if cache is not None and cache.ephemeral_claim is not None and (name := cache.ephemeral_claim.storage_class_name):
        yield Need("spec.vllm.cache.ephemeralClaim.storageClassName", storage_class(name))


def _secrets_in(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """Yield the path and name of each Secret to which a part of an overlay refers. Pull secrets are left out: only the
    kubelet uses them, no container.

    The part may have any shape: other code refuses what is not a pod template, and what is not a name is ignored.
    """
    if isinstance(node, list | tuple):
        for index, item in enumerate(node):
            yield from _secrets_in(item, f"{path}[{index}]")
    if not isinstance(node, Mapping):
        return
    for key, inner in node.items():
        names: list[Any] = [inner] if key == "secretName" else []
        if key in _REFERENCES and isinstance(inner, Mapping):
            names = [inner.get("name")]
        yield from ((f"{path}.{key}", name) for name in names if isinstance(name, str) and _NAME.fullmatch(name))
        yield from _secrets_in(inner, f"{path}.{key}")
