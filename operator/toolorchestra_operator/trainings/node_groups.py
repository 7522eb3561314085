"""The groups of Ray nodes of a training: the actors that fit into a pod, and the resources that a pod requests.

A pod is one Ray node. `Separate`: one group for trainers and one for engines. `Shared`: GPU limits are whole numbers,
so a trainer and an engine that share a GPU share a pod: one group, whose nodes serve both, and Ray gives each half a
GPU.
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
"""The resource by which a node tells Ray its role."""


@dataclass(frozen=True)
class NodeGroup:
    """A group of equal pods. `roles`: each node has resources for one actor of each."""

    component: Component
    roles: tuple[str, ...]
    replicas: int
    wanted: Resources
    devices: int = 1
    """Devices per actor, if it computes on devices that no limit counts."""

    @property
    def gpus(self) -> int:
        """The number of GPUs that Ray is told: it detects some kinds itself, and does not know others."""
        found = accelerator(self.wanted)
        if found is None:
            return 0
        return self.devices if found.count is None else found.count

    @property
    def resources(self) -> dict[str, int]:
        """The custom resources that Ray is told."""
        return dict.fromkeys(self.roles, 1)


def shares(ray: Ray) -> bool:
    """Return whether trainer and engine share a pod; the default is no."""
    return ray.placement == "Shared"


def node_groups(ray: Ray) -> tuple[NodeGroup, ...]:
    """Return all groups except the head."""
    trainers, engines = ray.trainers, ray.engines
    if shares(ray):
        return (NodeGroup(TRAINERS, tuple(ROLES.values()), trainers.replicas, trainers.resources),)
    return (
        NodeGroup(TRAINERS, (ROLES[TRAINERS],), trainers.replicas, trainers.resources),
        NodeGroup(ENGINES, (ROLES[ENGINES],), engines.replicas, engines.resources, engines.tensor_parallel_size),
    )


def device_problems(ray: Ray) -> Iterator[str]:
    """Yield errors about devices that would be missing or unused: by field, with what to change."""
    parts = {TRAINERS: ray.trainers.resources, ENGINES: ray.engines.resources}
    have = [name for name, wanted in parts.items() if accelerator(wanted) is not None]
    if len(have) == 1 and not shares(ray):
        (without,) = parts.keys() - have
        yield (
            f"spec.ray.{without}.resources.limits: no GPU, and {have[0]} have one: trainers and engines compute on"
            " the same kind of device, so ask for GPUs for both or neither (one for both: spec.ray.placement Shared)"
        )
