"""The groups of Ray nodes of a training: which actors a pod has room for, and what it asks the cluster for.

A pod is one Ray node. `Separate`: one group for trainers and one for engines. `Shared`: a pod's GPU limit is whole, so
a trainer and an engine that share a GPU share a pod: one group, whose nodes are for both, and Ray gives each its half.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from toolorchestra.api.accelerators import accelerator
from toolorchestra.api.base import Resources
from toolorchestra.api.cluster import Ray
from toolorchestra_operator.trainings.names import Component

TRAINERS: Final = "trainers"
ENGINES: Final = "engines"
ROLES: Final = {TRAINERS: "trainer", ENGINES: "engine"}
"""What a node tells Ray that it is for."""


@dataclass(frozen=True)
class NodeGroup:
    """Pods alike. `roles`: each node has room for one actor of each."""

    component: Component
    roles: tuple[str, ...]
    replicas: int
    wanted: Resources
    devices: int = 1
    """On which each of its actors computes, where it does so on devices that no limit counts."""

    @property
    def gpus(self) -> int:
        """As many as Ray is told of: it finds some kinds by itself, and of others it knows nothing."""
        found = accelerator(self.wanted)
        if found is None:
            return 0
        return self.devices if found.count is None else found.count

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
        NodeGroup(ENGINES, (ROLES[ENGINES],), engines.replicas, engines.resources, engines.tensor_parallel_size),
    )


def device_problems(ray: Ray) -> Iterator[str]:
    """Devices that would never be had, or lie idle: by field, with what to change."""
    parts = {TRAINERS: ray.trainers.resources, ENGINES: ray.engines.resources}
    have = [name for name, wanted in parts.items() if accelerator(wanted) is not None]
    if len(have) == 1 and not shares(ray):
        (without,) = parts.keys() - have
        yield (
            f"spec.ray.{without}.resources.limits: no GPU, and {have[0]} have one: trainers and engines compute on"
            " the same kind of device, so ask for GPUs for both or neither (one for both: spec.ray.placement Shared)"
        )
