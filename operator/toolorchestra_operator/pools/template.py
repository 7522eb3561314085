"""The pod template of a vLLM pool, and its inputs: the spec, the key, the refresh annotation (see `recorded`)."""

from __future__ import annotations

import hashlib
from typing import Any, Final

from toolorchestra.api.pool import VLLM
from toolorchestra_operator.planning.container_resources import filled
from toolorchestra_operator.planning.overlay import Rejected, overlaid, with_claims
from toolorchestra_operator.planning.recorded import digest
from toolorchestra_operator.pools.desired import CACHE_PATH, CREDENTIALS_PATH, MODEL_PATH, Desired
from toolorchestra_operator.pools.names import COMPONENT, PORT
from toolorchestra_operator.pools.server import DRAIN_MARGIN_SECONDS, arguments, environment, lifecycle, probes

REFRESH_ANNOTATION: Final = "toolorchestra.dev/refresh-template"
"""Annotation of a pool: a new value rolls it to the templates and images of the present operator."""
KEY_ANNOTATION: Final = "toolorchestra.dev/api-key-digest"

POD_PATH: Final = "spec.vllm.podTemplate"
USER: Final = 1000
_NO_PRIVILEGES: Final = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
_RESTRICTED: Final = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
}
_ROLLS_NOTHING: Final = frozenset({"replicas", "min_available", "queue_name"})


def inputs_digest(desired: Desired, *, key_digest: str) -> str:
    """Return the digest of everything in the resource that the template is made from.

    Defaults are left out, so that a new field or a changed default of a later release is no change.
    """
    spec = desired.vllm.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=set(_ROLLS_NOTHING))
    annotations = desired.parent["metadata"].get("annotations") or {}
    return digest([spec, key_digest, annotations.get(REFRESH_ANNOTATION, "")])


def key_digest(key: str) -> str:
    """Return a digest that identifies an API key; the key is random, so it cannot be guessed from the digest."""
    return hashlib.sha256(key.encode()).hexdigest()[:16]


def template(desired: Desired, *, key_digest: str) -> dict[str, Any] | Rejected:
    """Return the template that this version of the operator makes, with the overlay merged in."""
    own = {
        "metadata": {"labels": desired.names.labels, "annotations": {KEY_ANNOTATION: key_digest}},
        "spec": _pod(desired),
    }
    trusted = desired.names.namespace in desired.runtime.privileged_namespaces
    merged = overlaid(own, desired.vllm.pod_template, container=COMPONENT, path=POD_PATH, trusted=trusted)
    return merged if isinstance(merged, Rejected) else with_claims(merged, container=COMPONENT, used=True)


def _pod(desired: Desired) -> dict[str, Any]:
    vllm, secrets = desired.vllm, desired.runtime.image_pull_secrets
    volumes, mounts = _volumes(desired)
    container = {
        "name": COMPONENT,
        "image": desired.image,
        "command": arguments(desired),
        "env": environment(desired),
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": filled(vllm.resources, desired.runtime.default_resources),
        "securityContext": dict(_NO_PRIVILEGES),
        "volumeMounts": mounts,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        **probes(desired),
    }
    if hooks := lifecycle(desired):
        container["lifecycle"] = hooks
    spec: dict[str, Any] = {
        "automountServiceAccountToken": False,
        # A Service called `vllm` would set VLLM_PORT, which vLLM would read as its own.
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": vllm.drain_seconds + DRAIN_MARGIN_SECONDS,
        # GPU images run as root; everything else meets the restricted profile.
        "securityContext": {
            "seccompProfile": {"type": "RuntimeDefault"},
            **({} if desired.on_gpu else _RESTRICTED),
        },
        "containers": [container],
        "volumes": volumes,
    }
    if secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in secrets]
    return spec


def shm_size(vllm: VLLM) -> str:
    """Return the size of /dev/shm: the spec's; else 2 GiB per shard, or 1 GiB for one shard. It counts as memory."""
    shards = vllm.tensor_parallel_size
    return str(vllm.shm_size) if vllm.shm_size is not None else f"{2 * shards if shards > 1 else 1}Gi"


def _volumes(desired: Desired) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return volumes and mounts: scratch, shared memory, the cache, the model."""
    cache: dict[str, Any] = {"emptyDir": {}}
    if desired.cache_claim is not None:
        cache = {"persistentVolumeClaim": {"claimName": desired.cache_claim}}
    volumes = [
        {"name": "tmp", "emptyDir": {}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shm_size(desired.vllm)}},
        {"name": "cache", **cache},
    ]
    existing = desired.vllm.cache.existing_claim if desired.vllm.cache else None
    folder = {"subPath": existing.path.strip("/")} if existing and existing.path and existing.path.strip("/") else {}
    mounts: list[dict[str, Any]] = [
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "cache", "mountPath": CACHE_PATH, **folder},
    ]
    if (claim := desired.model_claim) is not None:
        volumes.append({"name": "model", "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
        mounts.append({"name": "model", "mountPath": MODEL_PATH, "readOnly": True})
    token = desired.vllm.model.token_secret_ref
    if token is not None and desired.scheme == "s3":
        volumes.append({"name": "object-store", "secret": {"secretName": token.name}})
        mounts.append({"name": "object-store", "mountPath": CREDENTIALS_PATH, "readOnly": True})
    return volumes, mounts
