"""What the product's memory plan says of a trainer alone on one GPU."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path


@dataclass(frozen=True)
class Planned:
    """Bytes of the trainer's peak, whether it fits, and the plan in words."""

    peak: int
    fits: bool
    lines: tuple[str, ...]


def planned(folder: Path, *, gpu_bytes: int, tokens: int, longest: int, checkpointing: bool) -> Planned | None:
    """The plan for micro-batches of `tokens`; None where this version of the product plans nothing."""
    try:
        from toolorchestra.train.memory import Layout, memory_plan, shape_of
    except ImportError:
        return None
    layout = Layout(
        gpu_bytes=gpu_bytes,
        tokens_per_micro_batch=tokens,
        max_model_len=longest,
        max_num_seqs=64,
        checkpointing=checkpointing,
        fused=find_spec("liger_kernel") is not None,
    )
    plan = memory_plan(shape_of(folder), layout)
    trainer = plan.gpus[0]
    fits = sum(size for _, size in trainer.parts) <= trainer.capacity
    return Planned(plan.trainer_peak, fits, plan.lines())
