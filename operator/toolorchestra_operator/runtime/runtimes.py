"""What the operator's settings contribute to trainings and pools. Light to import: rendering uses it too."""

from __future__ import annotations

from toolorchestra_operator.pools.reach import Reach
from toolorchestra_operator.pools.runtime import PoolRuntime
from toolorchestra_operator.runtime.settings import Settings
from toolorchestra_operator.trainings.runtime import Runtime


def runtime_of(settings: Settings) -> Runtime:
    """Return what the configuration contributes to a training."""
    return Runtime(
        cpu_image=settings.cpu_image,
        gpu_image=settings.gpu_image,
        worker_image=settings.worker_image,
        nats_url=settings.nats_url,
        stream_replicas=settings.stream_replicas,
        otlp_endpoint=settings.otlp_endpoint,
        metrics_port=settings.training_metrics_port or None,
        image_pull_secrets=settings.image_pull_secrets,
        cpu_threads=settings.cpu_threads,
        default_resources=settings.default_resources,
        privileged_namespaces=settings.privileged_namespaces,
    )


def pool_runtime_of(settings: Settings) -> PoolRuntime:
    """Return what the configuration contributes to a pool."""
    return PoolRuntime(
        gpu_image=settings.pool_gpu_image,
        cpu_image=settings.pool_cpu_image,
        image_pull_secrets=settings.image_pull_secrets,
        otlp_endpoint=settings.otlp_endpoint,
        cpu_threads=settings.cpu_threads,
        operator_namespace=settings.own_namespace,
        reach=Reach(settings.allowed_hosts),
        secrets_need_label=settings.secrets_need_label,
        default_resources=settings.default_resources.pools,
        privileged_namespaces=settings.privileged_namespaces,
    )
