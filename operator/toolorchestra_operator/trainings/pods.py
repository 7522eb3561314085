"""Pod templates of a training: what all of them share, and what head, nodes and workers have of their own.

Restricted pod security everywhere: not root, no privileges, no service account token (no pod of a training can write to
the API server). The overlay `podTemplate` comes last, and cannot touch what is set here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolorchestra.api.base import Resources, SecretKeyRef
from toolorchestra.api.pool import ExpertPool
from toolorchestra.bus.nats_url import has_credentials
from toolorchestra.contract.commands import FETCH_COMMAND
from toolorchestra_operator.errors import OperatorError
from toolorchestra_operator.planning.container_resources import filled, of_preparation
from toolorchestra_operator.planning.overlay import Rejected, overlaid, with_claims
from toolorchestra_operator.trainings.desired import CONFIG_PATH, MODELS_PATH, STORAGE_PATH, Desired
from toolorchestra_operator.trainings.names import Component

USER = 1000
HEAD_GRACE_SECONDS = 300
"""Between SIGTERM and the end of a head: a step and a checkpoint."""
WORKER_GRACE_SECONDS = 60
NATS_KEY = "url"
SECRET_TOKEN_KEY = "auth_token"
"""The one that KubeRay's operator reads."""

POD_SECURITY: Mapping[str, Any] = {
    "runAsNonRoot": True,
    "runAsUser": USER,
    "runAsGroup": USER,
    "fsGroup": USER,
    "fsGroupChangePolicy": "OnRootMismatch",
    "seccompProfile": {"type": "RuntimeDefault"},
}
CONTAINER_SECURITY: Mapping[str, Any] = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


class OverlayRejected(OperatorError, ValueError):
    """The spec's `podTemplate` sets what the operator owns; every mistake with its path. Admission says it."""


_COMPILED: Mapping[str, str] = {"VLLM_CACHE_ROOT": "vllm", "TRITON_CACHE_DIR": "triton"}


def variable(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "value": value}


def secret_variable(name: str, reference: SecretKeyRef) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": reference.name, "key": reference.key}}}


def _pod_ip(name: str = "POD_IP") -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}


def telemetry(desired: Desired, *, service: str, scraped: bool = False) -> list[dict[str, Any]]:
    """The standard variables of OpenTelemetry, from the resource or the chart. `scraped`: the head, whose controller
    Prometheus may ask."""
    spec = desired.spec.telemetry
    endpoint = spec.otlp_endpoint or desired.runtime.otlp_endpoint
    attributes = f"k8s.namespace.name={desired.names.namespace},toolorchestra.training.name={desired.names.name}"
    found = [
        variable("TOOLORCHESTRA_SPANS", spec.span_group),
        variable("OTEL_TRACES_SAMPLER_ARG", str(spec.ratio)),
        variable("OTEL_SERVICE_NAME", service),
        variable("OTEL_RESOURCE_ATTRIBUTES", attributes),
    ]
    served = desired.runtime.metrics_port if scraped else None
    if endpoint is not None:
        found += [variable("OTEL_TRACES_EXPORTER", "otlp"), variable("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)]
    if exporters := [*(["otlp"] if endpoint else ()), *(["prometheus"] if served else ())]:
        found.append(variable("OTEL_METRICS_EXPORTER", ",".join(exporters)))
    if served:
        found.append(_pod_ip("OTEL_EXPORTER_PROMETHEUS_HOST"))
        found.append(variable("OTEL_EXPORTER_PROMETHEUS_PORT", str(served)))
    return found


def metrics_ports(desired: Desired) -> tuple[Mapping[str, Any], ...]:
    """The head's port that the chart's PodMonitor knows by name; none where nobody scrapes. (`metrics` is the name of
    KubeRay's own, with Ray's figures.)"""
    port = desired.runtime.metrics_port
    return ({"name": "run-metrics", "containerPort": port},) if port else ()


def ray_environment(desired: Desired) -> list[dict[str, Any]]:
    """What every process of the Ray cluster inherits. The token is the training's own: nobody else can use its Ray."""
    token = SecretKeyRef(name=desired.names.ray_token, key=SECRET_TOKEN_KEY)
    return [
        _pod_ip(),
        variable("HOME", "/tmp"),
        variable("RAY_AUTH_MODE", "token"),
        secret_variable("RAY_AUTH_TOKEN", token),
        variable("RAY_DISABLE_IMPORT_WARNING", "1"),
        variable("RAY_raylet_start_wait_time_s", "120"),
        variable("RAY_worker_niceness", "0"),
        variable("OMP_WAIT_POLICY", "PASSIVE"),
        variable("KMP_BLOCKTIME", "0"),
    ]


def nats_environment(desired: Desired, reference: SecretKeyRef | None, *, attempt: int) -> list[dict[str, Any]]:
    """Where NATS is: a Secret's key that holds the URL with its credentials (the spec's, or the attempt's own), or the
    URL itself where it holds none."""
    if reference is None and has_credentials(desired.nats_url or ""):
        reference = SecretKeyRef(name=desired.names.nats(attempt), key=NATS_KEY)
    if reference is not None:
        return [secret_variable("NATS_URL", reference)]
    return [variable("NATS_URL", desired.nats_url or "")]


def key_environment(pools: Sequence[ExpertPool]) -> list[dict[str, Any]]:
    """The experts' API keys, each under its reference's variable."""
    references = {p.spec.endpoint.api_key_secret_ref for p in pools if p.spec.endpoint is not None}
    known = sorted((r for r in references if r is not None), key=lambda r: r.variable)
    return [secret_variable(reference.variable, reference) for reference in known]


def shared_volumes(desired: Desired, *, storage: bool, attempt: int) -> tuple[list[Any], list[Any]]:
    """Volumes and mounts: configuration, what URIs name, scratch; `storage` for the Ray cluster's pods alone."""
    volumes: list[dict[str, Any]] = [
        {"name": "config", "configMap": {"name": desired.names.attempt(attempt)}},
        {"name": "tmp", "emptyDir": {}},
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "config", "mountPath": CONFIG_PATH, "readOnly": True},
        {"name": "tmp", "mountPath": "/tmp"},
    ]
    if storage:
        volumes.append({"name": "storage", "persistentVolumeClaim": {"claimName": desired.claim}})
        volumes.append({"name": "shm", "emptyDir": {"medium": "Memory"}})
        mounts += [{"name": "storage", "mountPath": STORAGE_PATH}, {"name": "shm", "mountPath": "/dev/shm"}]
    for claim, path in desired.volumes.items():
        volumes.append({"name": f"claim-{claim}"[:63], "persistentVolumeClaim": {"claimName": claim, "readOnly": True}})
        mounts.append({"name": f"claim-{claim}"[:63], "mountPath": path, "readOnly": True})
    if storage and desired.model_cache is not None:
        volumes.append({"name": "models", "persistentVolumeClaim": {"claimName": desired.model_cache}})
        mounts.append({"name": "models", "mountPath": MODELS_PATH, **_cache_folder(desired)})
    elif desired.fetched:  # workers fetch a tokenizer only, so that they never need the cache's volume
        volumes.append({"name": "models", "emptyDir": {}})
        mounts.append({"name": "models", "mountPath": MODELS_PATH})
    return volumes, mounts


def _cache_folder(desired: Desired) -> dict[str, str]:
    cache = desired.spec.ray.model_cache
    existing = cache.existing_claim if cache else None
    folder = (existing.path or "").strip("/") if existing else ""
    return {"subPath": folder} if folder else {}


def _compiled(desired: Desired) -> list[dict[str, Any]]:
    """Where vLLM and Triton keep what they compiled: with the weights, where these are kept."""
    if desired.model_cache is None:
        return []
    return [variable(name, f"{MODELS_PATH}/.{folder}") for name, folder in _COMPILED.items()]


def _fetch(
    desired: Desired, *, image: str, tokenizer_only: bool, mounts: list[Any], resources: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """The init container that downloads the model, with what the main one may use: it runs before that one."""
    if not desired.fetched:
        return []
    model = desired.spec.model
    command = [*FETCH_COMMAND, model.uri, "--into", desired.model_dir]
    command += ["--revision", model.revision] if model.revision else []
    command += ["--tokenizer-only"] if tokenizer_only else []
    env = [variable("HOME", "/tmp")]
    if model.token_secret_ref is not None:
        env.append(secret_variable("HF_TOKEN", model.token_secret_ref))
    return [
        {
            "name": "fetch-model",
            "image": image,
            "command": command,
            "env": env,
            "volumeMounts": mounts,
            "resources": of_preparation(resources),
            "securityContext": dict(CONTAINER_SECURITY),
        }
    ]


def pod(
    desired: Desired,
    *,
    component: Component,
    attempt: int,
    image: str,
    command: Sequence[str],
    env: Sequence[Mapping[str, Any]],
    wanted: Resources,
    restart: str,
    grace: int,
    storage: bool,
    ports: Sequence[Mapping[str, Any]] = (),
    liveness: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One pod template; its main container is named after the component."""
    volumes, mounts = shared_volumes(desired, storage=storage, attempt=attempt)
    resources = filled(wanted, getattr(desired.runtime.default_resources, component))
    container: dict[str, Any] = {
        "name": component,
        "image": image,
        "command": list(command),
        "env": [*env, *(_compiled(desired) if storage else ())],
        "volumeMounts": mounts,
        "resources": resources,
        "securityContext": dict(CONTAINER_SECURITY),
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    if ports:
        container["ports"] = [dict(port) for port in ports]
    if liveness:
        container["livenessProbe"] = dict(liveness)
    spec: dict[str, Any] = {
        "restartPolicy": restart,
        "terminationGracePeriodSeconds": grace,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": dict(POD_SECURITY),
        "containers": [container],
        "volumes": volumes,
    }
    if init := _fetch(desired, image=image, tokenizer_only=not storage, mounts=mounts, resources=resources):
        spec["initContainers"] = init
    if desired.spec.priority_class_name:
        spec["priorityClassName"] = desired.spec.priority_class_name
    if desired.runtime.image_pull_secrets:
        spec["imagePullSecrets"] = [{"name": name} for name in desired.runtime.image_pull_secrets]
    template = {"metadata": {"labels": desired.names.labels(component, attempt=attempt)}, "spec": spec}
    path, overlay = desired.overlay(component)
    trusted = desired.names.namespace in desired.runtime.privileged_namespaces
    merged = overlaid(template, overlay, container=component, path=path, trusted=trusted)
    if isinstance(merged, Rejected):
        raise OverlayRejected(str(merged))
    return with_claims(merged, container=component, used=component != "head")
