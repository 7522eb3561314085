"""Divides the GPUs' memory for a training: makes the plan (memory.py) and the settings for trainers and engines.

Pure, except that it reads the headers of the model's files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from toolorchestra.api.training import OrchestratorTrainingSpec
from toolorchestra.contract.driver_config import GpuMemory
from toolorchestra.engines.arguments import CUDA_SEQUENCES
from toolorchestra.gpus.placement import Placement
from toolorchestra.policy.model_file import ModelFileError
from toolorchestra.sizing.layout import Layout
from toolorchestra.sizing.memory import memory_plan
from toolorchestra.sizing.model_shape import ModelShape, shape_of

TINY_PARAMETERS: Final = 50_000_000
"""Below this size, an engine starts without compiled code and CUDA graphs. They take up to a minute at the start, and
models of this size are trained for a few minutes, to try things."""


class MemoryRefused(ValueError):
    """The training cannot fit. The message says what would."""


@dataclass(frozen=True)
class Divided:
    """The settings, and `lines` that explain them to a person."""

    memory: GpuMemory
    lines: tuple[str, ...]


def fused_kernels() -> bool:
    """Return whether a trainer in this environment finds the fused kernels (fused.py)."""
    return find_spec("liger_kernel") is not None


def layout_of(spec: OrchestratorTrainingSpec, placement: Placement, *, gpu_bytes: int) -> Layout:
    """Return the layout of a training, for the memory plan."""
    rollout, algorithm = spec.rollout, spec.algorithm
    return Layout(
        gpu_bytes=gpu_bytes,
        trainers=placement.trainers,
        engines=placement.engines,
        tensor_parallel=placement.tensor_parallel,
        shared=placement.shared,
        tokens_per_micro_batch=algorithm.tokens_per_micro_batch,
        max_model_len=rollout.max_prompt_tokens + rollout.max_response_tokens,
        max_num_seqs=CUDA_SEQUENCES,
        reference=algorithm.kl.coefficient > 0,
        entropy=algorithm.entropy_coefficient != 0,
        head_float32=spec.model.head_precision == "Float32",
    )


def why_not_split(shape: ModelShape, over: int) -> str | None:
    """Return why vLLM cannot split the model over so many GPUs; None if it can."""
    if shape.splits(over):
        return None
    sizes = ", ".join(str(n) for n in range(1, min(64, shape.heads) + 1) if shape.splits(n))
    return (
        f"spec.ray.engines.tensorParallelSize is {over}, which does not divide the model's {shape.heads} attention"
        f" heads ({shape.kv_heads} of keys and values): use one of {sizes}"
    )


def divide(
    spec: OrchestratorTrainingSpec, model: Path, placement: Placement, *, gpu_bytes: int, there: int | None = None
) -> Divided:
    """Divide GPUs of `gpu_bytes` bytes each. `there`: number of GPUs of the machine, if known.

    MemoryRefused if the training does not fit or cannot be split so, or if the model's files do not tell its size.
    """
    try:
        shape = shape_of(model)
    except ModelFileError as error:
        raise MemoryRefused(f"the GPUs' memory cannot be planned: {error}") from error
    if why := why_not_split(shape, placement.tensor_parallel):
        raise MemoryRefused(why)
    layout = layout_of(spec, placement, gpu_bytes=gpu_bytes)
    plan = memory_plan(shape, replace(layout, fused=fused_kernels()), there=there)
    if plan.problem is not None:
        raise MemoryRefused(f"the GPUs' memory: {plan.problem}")
    memory = GpuMemory(
        gradient_checkpointing=plan.checkpointing,
        keep_compute_weights=plan.keep,
        gpu_memory_utilization=plan.gpu_memory_utilization,
        # An engine alone on its GPU measures by itself what is left, including its graphs.
        kv_cache_bytes=plan.kv_cache_bytes if placement.shared else None,
        eager=shape.parameters < TINY_PARAMETERS,
    )
    return Divided(memory, plan.lines())
