"""What a container asks for: what the spec says, and the chart's amounts where the spec is silent. Pure.

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
    """The chart's `defaultResources`, by the kind of pod."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    head: Resources = Field(default_factory=Resources)
    trainers: Resources = Field(default_factory=Resources)
    engines: Resources = Field(default_factory=Resources)
    workers: Resources = Field(default_factory=Resources)
    pools: Resources = Field(default_factory=Resources)


def filled(wanted: Resources, default: Resources = _NOTHING) -> dict[str, Any]:
    """A container's `resources`. What the spec says of a resource is not contradicted: a limit that it leaves out is
    never below its request, a request that it leaves out is its limit, as Kubernetes has it."""
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
    """An init container's, given the main one's: the pod has them anyway. Devices are not needed for it."""
    found = {
        kind: {name: amount for name, amount in resources[kind].items() if "/" not in name}
        for kind in ("limits", "requests")
        if kind in resources
    }
    return {kind: amounts for kind, amounts in found.items() if amounts}


def _larger(one: Quantity, other: Quantity | None) -> Quantity:
    return one if other is None or amount(one) >= amount(other) else other
