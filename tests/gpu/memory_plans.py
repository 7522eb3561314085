"""What the product's memory plan says of a trainer alone on one GPU."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toolorchestra.sizing.division import fused_kernels
from toolorchestra.sizing.layout import Layout
from toolorchestra.sizing.memory import memory_plan
from toolorchestra.sizing.model_shape import shape_of


@dataclass(frozen=True)
class Planned:
    """Bytes of the trainer's peak, whether it fits, and the plan in words."""

    peak: int
    fits: bool
    lines: tuple[str, ...]


def planned(folder: Path, *, gpu_bytes: int, tokens: int, longest: int, checkpointing: bool) -> Planned:
    """The plan for micro-batches of `tokens`."""
    layout = Layout(
        gpu_bytes=gpu_bytes,
        tokens_per_micro_batch=tokens,
        max_model_len=longest,
        max_num_seqs=64,
        checkpointing=checkpointing,
        fused=fused_kernels(),
    )
    plan = memory_plan(shape_of(folder), layout)
    trainer = plan.gpus[0]
    fits = sum(size for _, size in trainer.parts) <= trainer.capacity
    return Planned(plan.trainer_peak, fits, plan.lines())
