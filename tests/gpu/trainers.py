"""Trainers for the checks."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from gpu.place import Place
from toolorchestra.train.trainer import Trainer, TrainerConfig


def trainer_of(place: Place, folder: Path, *, checkpointing: bool = False, head_float32: bool = False) -> Trainer:
    """One in this process, on the place's device."""
    more = {"head_float32": True} if head_float32 else {}
    return Trainer(
        TrainerConfig(model_dir=str(folder), device=place.device, gradient_checkpointing=checkpointing, **more)
    )


def knows_float32_head() -> bool:
    """Whether this version of the trainer has that option."""
    return "head_float32" in {field.name for field in fields(TrainerConfig)}
