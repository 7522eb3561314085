"""What the operator's own configuration contributes to a training: images, the chart's NATS, telemetry."""

from __future__ import annotations

from dataclasses import dataclass, field

from toolorchestra_operator.planning.container_resources import DefaultResources


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """From the chart's values; a resource's own fields win."""

    cpu_image: str
    gpu_image: str
    worker_image: str
    """Of rollout workers: without torch and Ray."""
    nats_url: str | None = field(default=None, repr=False)
    stream_replicas: int = 1
    otlp_endpoint: str | None = None
    metrics_port: int | None = None
    """Where heads serve their metrics; None: nobody scrapes them."""
    image_pull_secrets: tuple[str, ...] = ()
    cpu_threads: int = 1
    """Torch and OpenMP threads of a trainer or an engine without a CPU limit."""
    default_resources: DefaultResources = field(default_factory=DefaultResources)
    """What containers ask for where the spec does not say."""
    privileged_namespaces: tuple[str, ...] = ()
    """Namespaces whose overlays may weaken their pods."""
    cluster: str = ""
    """Which cluster this is, for those who share a NATS server; "": nobody can tell."""
