"""The hardware of an incarnation: the cluster's nodes, the GPUs, and how their memory is divided."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import ray
from ray.util.placement_group import PlacementGroup

from toolorchestra.contract.driver_config import GpuMemory
from toolorchestra.contract.ray import ENGINE_ROLE, TRAINER_ROLE
from toolorchestra.controller.incarnation.assignment import Assignment
from toolorchestra.controller.incarnation.background import Background
from toolorchestra.controller.settings import SettingsError
from toolorchestra.engines.arguments import start_seconds
from toolorchestra.gpus.placement import Placement, PlacementError, asked
from toolorchestra.gpus.rooms import rooms, smallest_gpu
from toolorchestra.sizing.division import MemoryRefused, divide

NODES_POLL_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Hardware:
    """The hardware for trainers and engines."""

    start_seconds: float
    """Time limit for the start of an engine, and of the trainers."""
    memory: GpuMemory
    gpus_per_engine: float
    gpus_per_trainer: float
    places: PlacementGroup | None
    """Placement group on which trainers and engines share GPUs; None where they do not share."""


async def nodes(assignment: Assignment, background: Background) -> None:
    """Wait until the cluster has a node for every trainer and engine; the time limit is the operator's."""
    wanted_of = assignment.spec.ray
    wanted = {TRAINER_ROLE: wanted_of.trainers.replicas, ENGINE_ROLE: wanted_of.engines.replicas}
    while True:
        there: dict[str, float] = await asyncio.to_thread(ray.cluster_resources)
        missing = [f"{int(there.get(role, 0))} of {n} {role}s" for role, n in wanted.items() if there.get(role, 0) < n]
        if not missing:
            return
        assignment.status.set("Starting", message=f"waiting for nodes: {', '.join(missing)}")
        await background.unless_stopped(asyncio.sleep(NODES_POLL_SECONDS))


async def hardware_of(assignment: Assignment, background: Background) -> Hardware:
    """Return the hardware; SettingsError where the model does not fit or the placement is impossible."""
    config, spec = assignment.config, assignment.spec
    weights = sum(file.stat().st_size for file in config.model_dir.glob("*.safetensors"))
    seconds = spec.ray.engines.start_timeout_seconds or start_seconds(weights)
    if config.device == "cpu":
        return Hardware(
            start_seconds=seconds, memory=GpuMemory(), gpus_per_engine=0.0, gpus_per_trainer=0.0, places=None
        )
    try:
        placement = asked(spec.ray, shared=config.shared)
        memory = config.memory or await _divided(assignment, placement, background)
    except (PlacementError, MemoryRefused) as error:
        raise SettingsError(str(error)) from error
    places = await asyncio.to_thread(rooms, placement.gpus, by_role=config.cluster) if placement.shared else None
    return Hardware(
        start_seconds=seconds,
        memory=memory,
        gpus_per_engine=placement.gpus_per_engine,
        gpus_per_trainer=placement.gpus_per_trainer,
        places=places,
    )


async def _divided(assignment: Assignment, placement: Placement, background: Background) -> GpuMemory:
    gpu = await background.unless_stopped(asyncio.to_thread(smallest_gpu))
    if gpu is None:
        raise SettingsError("GPUs are requested, but no node of the cluster has one: is the GPU driver installed?")
    divided = divide(assignment.spec, assignment.config.model_dir, placement, gpu_bytes=gpu.size)
    assignment.run.event("memory", "\n".join((str(gpu), *divided.lines)))
    return divided.memory
