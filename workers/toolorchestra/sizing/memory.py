"""Plans the GPU memory of a training, and decides whether it fits. Pure: from sizes to bytes.

trainer_memory.py and engine_memory.py count the memory of each process. remedies.py finds changes that would make it
fit. The plan is valid whichever of the two processes starts first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from toolorchestra.sizing.engine_memory import engine_parts, key_bytes, kv_bytes
from toolorchestra.sizing.layout import Layout
from toolorchestra.sizing.model_shape import ModelShape
from toolorchestra.sizing.remedies import Remedy, remedies
from toolorchestra.sizing.trainer_memory import COMPUTE, trainer_parts
from toolorchestra.trainer.footprint import keeps_compute_weights

GIB: Final = 2**30
FRAGMENTATION: Final = 0.06
"""Memory that a trainer's allocator holds but cannot use, as a share of the trainer's peak."""
CONTEXT: Final = 640 << 20
"""CUDA context of one process, with the kernels of its libraries."""
NCCL: Final = 512 << 20
"""Buffers of a process that communicates with other GPUs."""
ENGINE_SHARE: Final = 0.9
"""Share of an engine's own GPU (vLLM's old default)."""
WANTED_SEQUENCES: Final = 32
"""Full-length sequences for which a trainer on the same GPU saves memory, by checkpointing and by dropping its compute
copies. That makes a step up to a third longer. But an engine with fewer sequences decodes at a fraction of its speed.
"""
KEYS: Final = "engine: keys and values"


@dataclass(frozen=True, kw_only=True)
class GpuPlan:
    """The memory of one kind of GPU."""

    what: str
    """The processes on it: "trainer", "engine" or "trainer and engine"."""
    gpus: int
    parts: tuple[tuple[str, int], ...]
    """Name and bytes of each part, in order. If there is no problem, their sum is at most the capacity."""
    capacity: int

    @property
    def total(self) -> int:
        return sum(size for _, size in self.parts)

    def lines(self) -> Iterator[str]:
        """Yield one line for the whole, then one per part."""
        number = "1 GPU" if self.gpus == 1 else f"{self.gpus} GPUs, each"
        yield f"{self.what} ({number}): {gib(self.total)} of {gib(self.capacity)}"
        yield from (f"  {name}: {gib(size)}" for name, size in self.parts if size)


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """The memory plan of all GPUs."""

    gpus: tuple[GpuPlan, ...]
    checkpointing: bool
    keep: bool
    """Whether the trainer keeps the bfloat16 copies of its weights through a step."""
    gpu_memory_utilization: float
    """The engine's share of the whole GPU's memory, for vLLM."""
    kv_cache_bytes: int
    """Bytes of keys and values on each of the engine's GPUs."""
    kv_sequences: float
    """Number of full-length sequences for which they have room."""
    trainer_peak: int
    """Bytes that `torch.cuda.max_memory_allocated()` of the trainer should show."""
    problem: str | None
    """Why it does not fit, and what would make it fit."""
    remedies: tuple[Remedy, ...] = ()
    longest: str = ""
    """Tokens of the largest micro-batch, and the fields that define them."""
    note: str = ""
    """Estimates in the plan, as text."""

    def lines(self) -> tuple[str, ...]:
        """Return the plan as text lines for a person; the problem comes last."""
        found = [line for gpu in self.gpus for line in gpu.lines()]
        return (*found, *self.choices(), *([self.problem] if self.problem else []))

    def choices(self) -> Iterator[str]:
        """Yield the choices that were made, and the estimates."""
        if self.longest:
            yield f"largest micro-batch: {self.longest}"
        copies = "; compute copies stay through a step" if self.keep else ""
        yield f"activation checkpointing {'on' if self.checkpointing else 'off'}{copies}"
        room = f"room for {self.kv_sequences:.3g} sequences of full length at a time"
        yield f"engine's share of a GPU {self.gpu_memory_utilization:.3g}: {room}"
        if self.note:
            yield self.note


def gib(size: float) -> str:
    """Return a size as text, in GiB or MiB."""
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.0f} MiB"


def _slack(peak: int, *, processes: int) -> int:
    """Return the bytes outside tensors: allocator fragments, CUDA context, NCCL."""
    return math.ceil(peak * FRAGMENTATION) + CONTEXT + (NCCL if processes > 1 else 0)


def memory_plan(shape: ModelShape, layout: Layout, *, there: int | None = None) -> MemoryPlan:
    """Return the plan. If it does not fit, its `problem` says why, and what would fit.

    `there`: number of GPUs of the machine; a remedy that needs more mentions it."""
    found = _plan(shape, layout)
    if found.problem is None:
        return found
    would_fit = tuple(remedies(shape, layout, fits=lambda one: _plan(shape, one).problem is None, there=there))
    would = "; or ".join(remedy.words for remedy in would_fit)
    what = f"It would fit with: {would}" if would else "No known change makes it fit: use larger GPUs"
    return replace(found, problem=f"{found.problem}. {what}", remedies=would_fit)


def _plan(shape: ModelShape, layout: Layout) -> MemoryPlan:
    """Return the best plan, without remedies.

    That is the first choice that fits and leaves enough for the engine; else the choice that fits and leaves the engine
    most; else the choice that needs least."""
    wanted = layout.keep
    if wanted is None:
        wanted = keeps_compute_weights(shape.parameters, gpu_bytes=layout.gpu_bytes, ranks=layout.trainers)
    keeps = (True, False) if wanted and layout.keep is None else (wanted,)
    checkpoints = (False, True) if layout.checkpointing is None else (layout.checkpointing,)
    choices = [(checkpointing, keep) for checkpointing in checkpoints for keep in keeps]
    plans = [_fixed(shape, layout, checkpointing=checkpointing, keep=keep) for checkpointing, keep in choices]
    fitting = [plan for plan in plans if plan.problem is None]
    wanted_sequences = min(WANTED_SEQUENCES, layout.max_num_seqs)
    roomy = (plan for plan in fitting if plan.kv_sequences >= wanted_sequences)
    return next(roomy, None) or max(fitting, key=lambda plan: plan.kv_sequences, default=plans[-1])


def _fixed(shape: ModelShape, layout: Layout, *, checkpointing: bool, keep: bool) -> MemoryPlan:
    capacity, over = layout.gpu_bytes, layout.tensor_parallel
    trainer = trainer_parts(shape, layout, checkpointing=checkpointing, keep=keep)
    engine = engine_parts(shape, layout)
    peak, fixed = (sum(size for _, size in parts) for parts in (trainer, engine))
    slack = _slack(peak, processes=layout.trainers)
    # New weights arrive tensor by tensor, outside what the engine counts as its own memory.
    beside = CONTEXT + (NCCL if over > 1 else 0) + COMPUTE * shape.vocabulary * shape.hidden // over
    if layout.shared:
        left = capacity - peak - slack - beside - fixed
        keys = key_bytes(shape, layout, left=left, most=layout.max_num_seqs * layout.max_model_len)
        parts = (*trainer, *engine, (KEYS, keys), ("slack", slack + beside))
        gpus: tuple[GpuPlan, ...] = (
            GpuPlan(what="trainer and engine", gpus=layout.gpus, parts=parts, capacity=capacity),
        )
        share = (fixed + keys) / capacity
    else:
        # All that is left, even if it is more than the sequences need: it caches prefixes.
        keys = key_bytes(shape, layout, left=int(ENGINE_SHARE * capacity) - fixed, most=None)
        parts = (*engine, (KEYS, keys), ("slack", beside))
        gpus = (
            GpuPlan(what="trainer", gpus=layout.trainers, parts=(*trainer, ("slack", slack)), capacity=capacity),
            GpuPlan(what="engine", gpus=layout.engines * over, parts=parts, capacity=capacity),
        )
        share = max(ENGINE_SHARE, (fixed + keys) / capacity)
    return MemoryPlan(
        gpus=gpus,
        checkpointing=checkpointing,
        keep=keep,
        gpu_memory_utilization=min(1.0, math.floor(share * 10_000) / 10_000),
        kv_cache_bytes=keys,
        kv_sequences=keys / (kv_bytes(shape, tensor_parallel=over) * layout.max_model_len),
        trainer_peak=peak,
        problem=_problem(gpus),
        longest=_longest(layout),
        note=shape.note,
    )


def _longest(layout: Layout) -> str:
    """Return the longest micro-batch and its fields as text, so that a reader knows which field to change."""
    if layout.max_model_len > layout.tokens_per_micro_batch:
        less = f"more than algorithm.tokensPerMicroBatch, {layout.tokens_per_micro_batch:,}"
        return f"{layout.max_model_len:,} tokens, by rollout.maxPromptTokens + maxResponseTokens ({less})"
    return f"{layout.tokens_per_micro_batch:,} tokens, by algorithm.tokensPerMicroBatch"


def _problem(gpus: tuple[GpuPlan, ...]) -> str | None:
    short = [
        f"{gpu.what}: at least {gib(gpu.total)} needed, and a GPU has {gib(gpu.capacity)}"
        for gpu in gpus
        if gpu.total > gpu.capacity
    ]
    return "; ".join(short) or None
