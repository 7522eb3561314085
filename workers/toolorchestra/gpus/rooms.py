"""The GPUs of the Ray cluster: bundles that a trainer and an engine share, and the memory size of its GPUs.

A bundle is part of one placement group and has one whole GPU. Without it, Ray would put two trainers that ask for half
a GPU each on the same GPU. The group is detached, like the engines in it: it survives a killed controller, and the next
incarnation finds it again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import ray
from ray.util import get_placement_group
from ray.util.placement_group import PlacementGroup, placement_group
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from toolorchestra.contract.ray import ENGINE_ROLE, TRAINER_ROLE
from toolorchestra.gpus.devices import VISIBLE, Gpu, visible_gpus

NAME = "rooms"
ASK_SECONDS = 120.0
"""Time limit, for loading torch and starting the driver."""
_ASK_TORCH = """
import json, torch
gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print(json.dumps([(gpu.name, gpu.total_memory) for gpu in gpus]))
"""


def rooms(size: int, *, by_role: bool) -> PlacementGroup:
    """Return the placement group of this training's namespace; create it if needed.

    `by_role`: on cluster nodes that have the roles of both trainer and engine."""
    with suppress(ValueError):
        found: PlacementGroup = get_placement_group(NAME)
        return found
    bundle: dict[str, float] = {"CPU": 2, "GPU": 1}
    if by_role:
        bundle |= {TRAINER_ROLE: 1, ENGINE_ROLE: 1}
    made: PlacementGroup = placement_group([bundle] * size, strategy="PACK", name=NAME, lifetime="detached")
    return made


def at(places: PlacementGroup, number: int) -> PlacementGroupSchedulingStrategy:
    """Return the scheduling strategy for one of the bundles."""
    return PlacementGroupSchedulingStrategy(places, placement_group_bundle_index=number)


def smallest_gpu() -> Gpu | None:
    """Return the smallest GPU of all nodes that have GPUs, or None if no node sees one. Blocks.

    The nodes themselves are asked, because the driver's node has no GPU."""
    ask: Any = ray.remote(_gpus_here)
    known: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    nodes = [node["NodeID"] for node in known if node["Alive"] and node["Resources"].get("GPU")]
    at_node = (NodeAffinitySchedulingStrategy(node, soft=False) for node in nodes)
    # The question must not need a GPU: engines of an earlier incarnation may use all of them.
    asked = [ask.options(num_cpus=0, num_gpus=0, scheduling_strategy=place).remote() for place in at_node]
    found: list[Gpu] = [gpu for gpus in ray.get(asked) for gpu in gpus]
    return min(found, key=lambda gpu: gpu.size, default=None)


def _gpus_here() -> tuple[Gpu, ...]:
    """Return all GPUs that the node's container shows. Ray hides them from a task that asks for none."""
    environment = {name: value for name, value in os.environ.items() if name != VISIBLE}
    return visible_gpus(environment) or _by_torch(environment)


def _by_torch(environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    """Return the GPUs that NVIDIA's driver does not list: parts of its GPUs (MIG), and AMD's.

    Runs in a separate process, so that its CUDA context ends with it."""
    with suppress(OSError, subprocess.SubprocessError, ValueError):
        argv = [sys.executable, "-c", _ASK_TORCH]
        said = subprocess.run(argv, env=environment, capture_output=True, check=True, timeout=ASK_SECONDS).stdout
        return tuple(Gpu(i, "", name, size) for i, (name, size) in enumerate(json.loads(said)))
    return ()
