"""Starts the trainers of an incarnation, and restores the run's state in them."""

from __future__ import annotations

import asyncio

from toolorchestra.api.conditions import Reason
from toolorchestra.api.training import OrchestratorTrainingSpec
from toolorchestra.contract.driver_config import DriverConfig, GpuMemory
from toolorchestra.controller.incarnation.assignment import Assignment
from toolorchestra.controller.incarnation.hardware import Hardware
from toolorchestra.controller.pauses import Paused
from toolorchestra.trainer.facade import AsyncTrainers
from toolorchestra.trainer.group import TrainerGroup
from toolorchestra.trainer.model import ModelError
from toolorchestra.trainer.trainer import TrainerConfig
from toolorchestra.weights.checkpoint import Checkpoint, CheckpointStore


def trainer_config(config: DriverConfig, spec: OrchestratorTrainingSpec, *, memory: GpuMemory) -> TrainerConfig:
    """Return the configuration of every trainer of a training."""
    return TrainerConfig(
        model_dir=str(config.model_dir),
        device=config.device,
        threads=config.threads,
        gradient_checkpointing=memory.gradient_checkpointing,
        keep_compute_weights=memory.keep_compute_weights,
        longest=spec.rollout.max_prompt_tokens + spec.rollout.max_response_tokens,
        reference=spec.algorithm.kl.coefficient > 0,
        head_float32=spec.model.head_precision == "Float32",
    )


async def start_trainers(assignment: Assignment, hardware: Hardware, store: CheckpointStore) -> AsyncTrainers:
    """Start the trainers with the base model's weights. Paused: the trainer refuses the model."""
    config, spec = assignment.config, assignment.spec
    try:
        group = await asyncio.to_thread(
            TrainerGroup,
            trainer_config(config, spec, memory=hardware.memory),
            size=spec.ray.trainers.replicas,
            gpus_per_trainer=hardware.gpus_per_trainer,
            by_role=config.cluster,
            places=hardware.places,
            ready_timeout=hardware.start_seconds,
        )
    except ModelError as error:
        raise Paused(str(error), reason=Reason.MODEL_REFUSED) from error
    return AsyncTrainers(group, store, engine_dtype="bfloat16" if config.device == "cuda" else "float32")


async def restore(trainers: AsyncTrainers, checkpoint: Checkpoint | None, *, seed: int) -> None:
    """Load the checkpoint into the trainers; without one, seed them for the beginning of a run."""
    if checkpoint is not None:
        await trainers.load(checkpoint.path)
    else:
        await trainers.set_rng(seed)
