"""What was found out about a cluster. Frozen facts; `look` fills them in, a test writes them down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from toolorchestra.cluster_client.preflight.references import Reference

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Hidden:
    """Who asks may not see it, or the server did not say."""

    why: str


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Of one cluster and one namespace."""

    served: frozenset[str] = frozenset()
    """Of the resources that matter: those that the API server has, such as `rayjobs.ray.io`."""
    namespace: bool | Hidden = True
    operators: tuple[Json, ...] | Hidden = ()
    """Deployments of the operator, in all namespaces."""
    objects: Mapping[Reference, Json | Hidden | None] = field(default_factory=dict[Reference, "Json | Hidden | None"])
    default_class: bool | Hidden = True
    nodes: tuple[Json, ...] | Hidden = ()
    pods: tuple[Json, ...] | Hidden = ()
    """Pods of all namespaces: what is in use."""
    may: Mapping[tuple[str, str], bool] = field(default_factory=dict[tuple[str, str], bool])
    """(verb, resource) → whether who asks may."""
    refused: Mapping[str, str] = field(default_factory=dict[str, str])
    """`Kind/name` of a document → why the API server would not have it."""
    pools: tuple[Json, ...] | Hidden = ()
    """ExpertPools that are there."""
