"""What the operator's own configuration contributes to a pool: images, telemetry, where the operator runs."""

from __future__ import annotations

from dataclasses import dataclass, field

from toolorchestra.api.base import Resources
from toolorchestra_operator.pools.reach import Reach


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
    reach: Reach = field(default_factory=Reach)
    """Which hosts may be experts."""
    secrets_need_label: bool = True
    """Only Secrets whose label says that they are for pools may be referred to."""
    default_resources: Resources = field(default_factory=Resources)
    """What a replica asks for where the spec does not say."""
    privileged_namespaces: tuple[str, ...] = ()
    """Namespaces whose overlays may weaken their pods."""
