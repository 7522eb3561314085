"""What a training needs of its GPUs' memory, and whether it fits. Pure: from sizes to bytes.

trainer_memory.py and engine_memory.py count what each of the two holds, remedies.py finds what would fit instead. The
plan holds whichever of the two starts first.
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
"""Share on top of a trainer's peak that its allocator holds and cannot use."""
CONTEXT: Final = 640 << 20
"""One process's CUDA context with its libraries' kernels."""
NCCL: Final = 512 << 20
"""Buffers of a process that talks to other GPUs."""
ENGINE_SHARE: Final = 0.9
"""Of an engine's own GPU (vLLM's default of old)."""
WANTED_SEQUENCES: Final = 32
"""Full-length sequences for which a trainer on the same GPU gives way, by checkpointing and by dropping its compute
copies: that makes a step up to a third longer, and an engine with fewer decodes at a fraction of its speed."""
KEYS: Final = "engine: keys and values"


@dataclass(frozen=True, kw_only=True)
class GpuPlan:
    """One kind of GPU."""

    what: str
    """"trainer", "engine" or "trainer and engine"."""
    gpus: int
    parts: tuple[tuple[str, int], ...]
    """Name and bytes, in order. Where there is no problem they sum to the capacity at most."""
    capacity: int

    @property
    def total(self) -> int:
        return sum(size for _, size in self.parts)

    def lines(self) -> Iterator[str]:
        """One for the whole, one per part."""
        number = "1 GPU" if self.gpus == 1 else f"{self.gpus} GPUs, each"
        yield f"{self.what} ({number}): {gib(self.total)} of {gib(self.capacity)}"
        yield from (f"  {name}: {gib(size)}" for name, size in self.parts if size)


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Where every byte goes."""

    gpus: tuple[GpuPlan, ...]
    checkpointing: bool
    keep: bool
    """The trainer holds the bfloat16 copies of its weights through a step."""
    gpu_memory_utilization: float
    """The engine's share of the whole GPU's memory, for vLLM."""
    kv_cache_bytes: int
    """Its keys and values on each of its GPUs."""
    kv_sequences: float
    """Sequences of full length that they have room for."""
    trainer_peak: int
    """Bytes that `torch.cuda.max_memory_allocated()` of the trainer should show."""
    problem: str | None
    """Why it cannot fit, and what would."""
    remedies: tuple[Remedy, ...] = ()
    longest: str = ""
    """Tokens of the largest micro-batch, and the fields that they come from."""
    note: str = ""
    """What of it is a guess."""

    def lines(self) -> tuple[str, ...]:
        """For a person, one thing a line; the problem last."""
        found = [line for gpu in self.gpus for line in gpu.lines()]
        return (*found, *self.choices(), *([self.problem] if self.problem else []))

    def choices(self) -> Iterator[str]:
        """What was chosen, and what of it is a guess."""
        if self.longest:
            yield f"largest micro-batch: {self.longest}"
        copies = "; compute copies stay through a step" if self.keep else ""
        yield f"activation checkpointing {'on' if self.checkpointing else 'off'}{copies}"
        room = f"room for {self.kv_sequences:.3g} sequences of full length at a time"
        yield f"engine's share of a GPU {self.gpu_memory_utilization:.3g}: {room}"
        if self.note:
            yield self.note


def gib(size: float) -> str:
    """As people read it."""
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.0f} MiB"


def _slack(peak: int, *, processes: int) -> int:
    """What no tensor holds: the allocator's fragments, the CUDA context, NCCL."""
    return math.ceil(peak * FRAGMENTATION) + CONTEXT + (NCCL if processes > 1 else 0)


def memory_plan(shape: ModelShape, layout: Layout, *, there: int | None = None) -> MemoryPlan:
    """The plan; where it cannot fit, its `problem` says why, and what would. `there`: GPUs of the machine, to say of
    what would fit where that is more."""
    found = _plan(shape, layout)
    if found.problem is None:
        return found
    would_fit = tuple(remedies(shape, layout, fits=lambda one: _plan(shape, one).problem is None, there=there))
    would = "; or ".join(remedy.words for remedy in would_fit)
    what = f"It would fit with: {would}" if would else "Nothing that is known here makes it fit: take larger GPUs"
    return replace(found, problem=f"{found.problem}. {what}", remedies=would_fit)


def _plan(shape: ModelShape, layout: Layout) -> MemoryPlan:
    """Without remedies: the first choice that fits and leaves the engine what it wants; else, of those that fit, the
    one that leaves it most; else the one that takes least."""
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
    # New weights come in tensor by tensor, beside what the engine counts as its own.
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
        # All of it, also what is more than of use: it keeps prefixes.
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
    """In words: one who meets a length where a budget was expected looks for the wrong field."""
    if layout.max_model_len > layout.tokens_per_micro_batch:
        less = f"more than algorithm.tokensPerMicroBatch, {layout.tokens_per_micro_batch:,}"
        return f"{layout.max_model_len:,} tokens, by rollout.maxPromptTokens + maxResponseTokens ({less})"
    return f"{layout.tokens_per_micro_batch:,} tokens, by algorithm.tokensPerMicroBatch"


def _problem(gpus: tuple[GpuPlan, ...]) -> str | None:
    short = [
        f"{gpu.what}: {gib(gpu.total)} are needed at least, and a GPU has {gib(gpu.capacity)}"
        for gpu in gpus
        if gpu.total > gpu.capacity
    ]
    return "; ".join(short) or None
