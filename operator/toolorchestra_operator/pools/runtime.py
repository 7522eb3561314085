"""The operator's configuration for pools: images, telemetry, the operator's namespace."""

from __future__ import annotations

from dataclasses import dataclass, field

from toolorchestra.api.base import Resources
from toolorchestra_operator.pools.reach import Reach


@dataclass(frozen=True, kw_only=True)
class PoolRuntime:
    """Values of the chart; a pool's own fields take precedence."""

    gpu_image: str
    """vLLM image for pools that request a GPU."""
    cpu_image: str
    """vLLM image for pools that do not."""
    image_pull_secrets: tuple[str, ...] = ()
    otlp_endpoint: str | None = None
    """Base URL of an OpenTelemetry collector (OTLP over HTTP)."""
    cpu_threads: int = 1
    """OpenMP threads of a server without a GPU and without a CPU limit."""
    operator_namespace: str | None = None
    """Namespace of the operator's pods; None: they may be in any namespace."""
    reach: Reach = field(default_factory=Reach)
    """Which hosts may be experts."""
    secrets_need_label: bool = True
    """Whether pools may refer only to Secrets whose label says that they are for pools."""
    default_resources: Resources = field(default_factory=Resources)
    """Requests and limits of a replica if the spec has none."""
    privileged_namespaces: tuple[str, ...] = ()
    """Namespaces whose overlays may weaken their pods."""
