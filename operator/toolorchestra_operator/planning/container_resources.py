"""Resources of a container: the spec's, and the chart's defaults for what the spec leaves out. Pure.

Under a ResourceQuota a pod is refused unless each of its containers, init containers too, has a request and a limit of
every resource that the quota counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field

from toolorchestra.api.base import Resources
from toolorchestra.api.scalars import Quantity
from toolorchestra_operator.kubernetes.quantity import amount

_NOTHING: Final = Resources()


class DefaultResources(BaseModel):
    """The chart's `defaultResources`, by kind of pod."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    head: Resources = Field(default_factory=Resources)
    trainers: Resources = Field(default_factory=Resources)
    engines: Resources = Field(default_factory=Resources)
    workers: Resources = Field(default_factory=Resources)
    pools: Resources = Field(default_factory=Resources)


def filled(wanted: Resources, default: Resources = _NOTHING) -> dict[str, Any]:
    """Return a container's `resources`. The spec takes precedence: a limit that is filled in is never below the spec's
    request, and a missing request beside the spec's limit equals that limit, as in Kubernetes."""
    limits, requests = dict(wanted.limits), dict(wanted.requests)
    for name in dict.fromkeys((*default.requests, *default.limits)):
        limit, request = limits.get(name), requests.get(name)
        if limit is not None and request is None:
            requests[name] = limit
        if request is None and limit is None and name in default.requests:
            requests[name] = default.requests[name]
        if limit is None and name in default.limits:
            limits[name] = _larger(default.limits[name], requests.get(name))
    return {kind: amounts for kind, amounts in (("limits", limits), ("requests", requests)) if amounts}


def of_preparation(resources: Mapping[str, Any]) -> dict[str, Any]:
    """Return an init container's resources, from the main one's, which the pod reserves anyway; without devices."""
    found = {
        kind: {name: amount for name, amount in resources[kind].items() if "/" not in name}
        for kind in ("limits", "requests")
        if kind in resources
    }
    return {kind: amounts for kind, amounts in found.items() if amounts}


def _larger(one: Quantity, other: Quantity | None) -> Quantity:
    return one if other is None or amount(one) >= amount(other) else other
