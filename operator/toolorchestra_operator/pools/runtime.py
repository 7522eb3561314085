"""What the operator's own configuration contributes to a pool: images, telemetry, where the operator runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from toolorchestra.api.base import Resources


@dataclass(frozen=True, kw_only=True)
class PoolRuntime:
    """From the chart's values; a pool's own fields win."""

    gpu_image: str
    """vLLM for pools that ask for a GPU."""
    cpu_image: str
    """vLLM for pools that do not."""
    image_pull_secrets: tuple[str, ...] = ()
    otlp_endpoint: str | None = None
    """Base URL of an OpenTelemetry collector (OTLP over HTTP)."""
    cpu_threads: int = 1
    """OpenMP threads of a server without a GPU and without a CPU limit."""
    operator_namespace: str | None = None
    """Where the operator's pods are; None: they may be in any namespace."""
    default_resources: Resources = field(default_factory=Resources)
    """What a replica asks for where the spec does not say."""
    privileged_namespaces: tuple[str, ...] = ()
    """Namespaces whose overlays may weaken their pods."""
