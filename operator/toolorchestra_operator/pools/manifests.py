"""The objects of a vLLM pool: key, cache, Service, disruption budget, network policy, Deployment. Pure."""

from __future__ import annotations

import base64
from typing import Any, Final

from toolorchestra.contract.labels import MANAGER, TRAINING_LABEL
from toolorchestra_operator.kubernetes.manifest import Manifest
from toolorchestra_operator.planning.claims import claim
from toolorchestra_operator.planning.recorded import record
from toolorchestra_operator.pools.desired import Desired
from toolorchestra_operator.pools.names import API_KEY, PORT
from toolorchestra_operator.pools.server import start_seconds

QUEUE_LABEL: Final = "kueue.x-k8s.io/queue-name"
_PATIENCE_SECONDS: Final = 600
"""Seconds for scheduling and pulling, in addition to the start, before a roll-out counts as stuck."""


def api_key(desired: Desired, key: str) -> dict[str, Any]:
    """Return the API key's Secret. It is created once, never changed, and never compared."""
    names = desired.names
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": names.metadata(names.api_key),
        "type": "Opaque",
        "data": {API_KEY: base64.b64encode(key.encode()).decode()},
    }


def cache_claim(desired: Desired) -> dict[str, Any] | None:
    """Return the claim to create; None: no cache is wanted, or an existing claim is used."""
    cache = desired.vllm.cache
    if cache is None or cache.type != "EphemeralClaim":
        return None
    return claim(cache.ephemeral_claim, desired.names.metadata(desired.names.cache))


def service(desired: Desired) -> dict[str, Any]:
    """Return the Service: one address for all ready replicas."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": desired.names.metadata(desired.names.server),
        "spec": {
            "selector": desired.names.selector,
            "ports": [{"name": "http", "port": PORT, "protocol": "TCP", "targetPort": "http"}],
        },
    }


def disruption_budget(desired: Desired) -> dict[str, Any]:
    """Return the disruption budget: `minAvailable` of the spec, at most the replicas. Unready ones may always go."""
    vllm = desired.vllm
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": desired.names.metadata(desired.names.server),
        "spec": {
            "minAvailable": min(vllm.min_available, vllm.replicas),
            "selector": {"matchLabels": desired.names.selector},
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def network_policy(desired: Desired) -> dict[str, Any]:
    """Return the network policy: only the pods of trainings (in this namespace) and the operator have access, because
    vLLM's key leaves many routes open.

    Policies add up: access for others, such as a Prometheus, is a policy of the user's.
    """
    operator_labels = {"app.kubernetes.io/part-of": MANAGER, "app.kubernetes.io/component": "operator"}
    namespace = desired.runtime.operator_namespace
    where = {"matchLabels": {"kubernetes.io/metadata.name": namespace}} if namespace else {}
    peers = [
        {"podSelector": {"matchExpressions": [{"key": TRAINING_LABEL, "operator": "Exists"}]}},
        {"podSelector": {"matchLabels": operator_labels}, "namespaceSelector": where},
    ]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": desired.names.metadata(desired.names.server),
        "spec": {
            "podSelector": {"matchLabels": desired.names.selector},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": peers, "ports": [{"port": PORT, "protocol": "TCP"}]}],
        },
    }


def deployment(desired: Desired, template: Manifest, *, inputs: str) -> dict[str, Any]:
    """Return the Deployment. It rolls without losing a request: first one more pod, then one less, drained."""
    vllm, names = desired.vllm, desired.names
    queue = {QUEUE_LABEL: vllm.queue_name} if vllm.queue_name else {}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {**names.metadata(names.server, labels=queue), "annotations": record(template, inputs=inputs)},
        "spec": {
            "replicas": vllm.replicas,
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": start_seconds(vllm.model.uri) + _PATIENCE_SECONDS,
            "selector": {"matchLabels": names.selector},
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": template,
        },
    }
