"""The groups of Ray nodes of a training: which actors a pod has room for, and what it asks the cluster for.

A pod is one Ray node. `Separate`: one group for trainers and one for engines. `Shared`: a pod's GPU limit is whole, so
a trainer and an engine that share a GPU share a pod: one group, whose nodes are for both, and Ray gives each its half.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from toolorchestra.api.base import Resources
from toolorchestra.api.cluster import Ray
from toolorchestra.api.pool import GPU_RESOURCES
from toolorchestra_operator.trainings.names import Component

TRAINERS: Final = "trainers"
ENGINES: Final = "engines"
ROLES: Final = {TRAINERS: "trainer", ENGINES: "engine"}
"""What a node tells Ray that it is for."""
PART_OF_GPU: Final = "nvidia.com/mig-"
"""How NVIDIA's device plugin begins the names of parts, such as nvidia.com/mig-1g.10gb."""


@dataclass(frozen=True)
class NodeGroup:
    """Pods alike. `roles`: each node has room for one actor of each."""

    component: Component
    roles: tuple[str, ...]
    replicas: int
    wanted: Resources

    @property
    def resources(self) -> dict[str, int]:
        """Told to Ray."""
        return dict.fromkeys(self.roles, 1)


def shares(ray: Ray) -> bool:
    """Whether trainer and engine share a pod. Not said: they do not."""
    return ray.placement == "Shared"


def node_groups(ray: Ray) -> tuple[NodeGroup, ...]:
    """All but the head."""
    trainers, engines = ray.trainers, ray.engines
    if shares(ray):
        return (NodeGroup(TRAINERS, tuple(ROLES.values()), trainers.replicas, trainers.resources),)
    return (
        NodeGroup(TRAINERS, (ROLES[TRAINERS],), trainers.replicas, trainers.resources),
        NodeGroup(ENGINES, (ROLES[ENGINES],), engines.replicas, engines.resources),
    )


def gpu_problems(ray: Ray) -> Iterator[str]:
    """GPUs that are asked for so that they would never be had, or lie idle: by field, with what to change."""
    parts = {"trainers": ray.trainers.resources, "engines": ray.engines.resources}
    misspelt = [problem for name, wanted in parts.items() for problem in _not_whole(name, wanted)]
    yield from misspelt
    with_gpu = [name for name, wanted in parts.items() if any(gpu in wanted.limits for gpu in GPU_RESOURCES)]
    if len(with_gpu) == 1 and not misspelt and not shares(ray):
        (without,) = parts.keys() - with_gpu
        yield (
            f"spec.ray.{without}.resources.limits: no GPU, and {with_gpu[0]} have one: trainers and engines compute on"
            " the same kind of device, so ask for GPUs for both or neither (one for both: spec.ray.placement Shared)"
        )


def _not_whole(name: str, wanted: Resources) -> Iterator[str]:
    """What is no whole GPU to Kubernetes, of one part."""
    if mig := sorted(one for one in {*wanted.limits, *wanted.requests} if one.startswith(PART_OF_GPU)):
        yield (
            f"spec.ray.{name}.resources: {', '.join(mig)} is a part of a GPU, and {name} compute on whole ones: ask for"
            f" {GPU_RESOURCES[0]}"
        )
    for gpu in GPU_RESOURCES:
        if gpu in wanted.requests and gpu not in wanted.limits:
            yield f"spec.ray.{name}.resources.requests: {gpu} counts where it stands in limits: put it there"
