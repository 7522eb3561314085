"""The operator's configuration for trainings: images, the chart's NATS, telemetry."""

from __future__ import annotations

from dataclasses import dataclass, field

from toolorchestra_operator.planning.container_resources import DefaultResources


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """Values of the chart; a resource's own fields take precedence."""

    cpu_image: str
    gpu_image: str
    worker_image: str
    """The image of rollout workers, without torch and Ray."""
    nats_url: str | None = field(default=None, repr=False)
    stream_replicas: int = 1
    otlp_endpoint: str | None = None
    metrics_port: int | None = None
    """The port on which heads serve their metrics; None: they are not scraped."""
    image_pull_secrets: tuple[str, ...] = ()
    cpu_threads: int = 1
    """Torch and OpenMP threads of a trainer or an engine without a CPU limit."""
    default_resources: DefaultResources = field(default_factory=DefaultResources)
    """Requests and limits of containers if the spec has none."""
    privileged_namespaces: tuple[str, ...] = ()
    """Namespaces whose overlays may weaken their pods."""
    cluster: str = ""
    """Identifies this cluster on a shared NATS server; "": unknown."""
