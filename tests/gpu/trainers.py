"""Trainers for the checks."""

from __future__ import annotations

from pathlib import Path

from gpu.place import Place
from toolorchestra.trainer.trainer import Trainer, TrainerConfig


def trainer_of(place: Place, folder: Path, *, checkpointing: bool = False, head_float32: bool = False) -> Trainer:
    """One in this process, on the place's device."""
    return Trainer(
        TrainerConfig(
            model_dir=str(folder),
            device=place.device,
            gradient_checkpointing=checkpointing,
            head_float32=head_float32,
        )
    )
