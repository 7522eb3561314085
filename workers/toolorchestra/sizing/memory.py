"""What a training needs of its GPUs' memory, and whether it fits. Pure: from sizes to bytes.

**Trainer** (trainer.py: FSDP2, float32 master weights, AdamW, bfloat16 compute), bytes per parameter, sharded over the
trainers: weights 4, gradients 4, the two moments 8. On top, not sharded, the bfloat16 copies of what computes: the root
(embedding and head stay whole from forward to the end of backward) and some blocks; or, on one rank with room, all of
them (footprint.py, which the trainer follows too).

**Activations** per token and layer: what autograd keeps of one block. After Korthikanti et al. 2022 (arXiv 2205.05198,
section 4), counted anew for a block with RMSNorm, rotary embedding, grouped queries, flash attention and SwiGLU; with
h hidden, i intermediate, q = heads x head_dim, k = kv heads x head_dim, everything bfloat16 (2 bytes) but where said:

| kept for the backward                           | modules as in transformers | fused kernels    |
|-------------------------------------------------|----------------------------|------------------|
| two norms: input (float32 copy / as it is)      | 2 · 4h                     | 2 · 2h           |
| … their value before the weight, and after it   | 2 · (2h + 2h)              | 2 · 2h           |
| norms of query and key, where there are such    | 6q + 6k                    | 2q + 2k          |
| attention: query, key, value, output            | 2q + 2k + 2k + 2q          | the same         |
| … its log-sum-exp, float32                      | 4 · heads                  | the same         |
| SwiGLU: gate, up, their product                 | 2i + 2i + 2i               | the same         |
| … silu(gate)                                    | 2i                         | computed again   |

tests/unit/sizing/test_memory.py holds the left column to what autograd keeps of the real module. With checkpointing a
layer keeps its input only (2h), and one block at a time is computed again.

**Head** (logprob.py, footprint.py): a chunk of logits, and its weight's gradient, while all activations are there.

**Engine** (vLLM): bfloat16 weights, room for its own profile run and CUDA graphs, and the rest for keys and values. It
counts its share (`--gpu-memory-utilization`) of the whole GPU, without its CUDA context, and does not start where less
than that share is free. So the plan holds whichever of the two starts first.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from toolorchestra.sizing.model_shape import ModelShape, shape_of
from toolorchestra.trainer.footprint import chunk_tokens, head_bytes, keeps_compute_weights

__all__ = [
    "GpuPlan",
    "Layout",
    "MemoryPlan",
    "ModelShape",
    "Remedy",
    "layer_bytes",
    "memory_plan",
    "shape_of",
]

GIB: Final = 2**30
MASTER, GRADIENT, MOMENTS, COMPUTE, REFERENCE = 4, 4, 8, 2, 4
"""Bytes per parameter: float32 weights and gradient, AdamW's two float32 moments, bfloat16 copy, frozen float32."""
BLOCKS_WHOLE: Final = 3
"""Blocks whose bfloat16 copies are there at a time: one computes, the next is gathered, in a buffer and from it."""

FRAGMENTATION: Final = 0.06
"""Share on top of a trainer's peak that its allocator holds and cannot use."""
CONTEXT: Final = 640 << 20
"""One process's CUDA context with its libraries' kernels."""
NCCL: Final = 512 << 20
"""Buffers of a process that talks to other GPUs."""
ENGINE_SHARE: Final = 0.9
"""Of an engine's own GPU (vLLM's default of old)."""
BATCHED_TOKENS: Final = 8192
"""Tokens of the engine's profile run: vLLM's default for a server on a large GPU (`--max-num-batched-tokens`)."""
SAMPLER_BYTES: Final = 12
"""Per sequence and vocabulary entry in the engine's sampler: float32 logits and two tensors like them."""
GRAPHS: Final = 1 << 30
"""Of the engine's CUDA graphs."""
LEAST_SEQUENCES: Final = 8
"""Full-length sequences that an engine must have room for at least: with fewer it waits more than it works. (Real ones
are shorter than the longest.)"""
WANTED_SEQUENCES: Final = 32
"""Full-length sequences for which a trainer on the same GPU gives way, by checkpointing and by dropping its compute
copies: that makes a step up to a third longer, and an engine with fewer decodes at a fraction of its speed."""
MOST_GPUS: Final = 1024
KEYS: Final = "engine: keys and values"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """What runs where. `tokens_per_micro_batch` and `max_model_len`: a longer sequence is a micro-batch of its own."""

    gpu_bytes: int
    """Of one GPU: the whole."""
    trainers: int = 1
    engines: int = 1
    tensor_parallel: int = 1
    """GPUs of one engine."""
    shared: bool = False
    """A trainer and an engine on each GPU."""
    tokens_per_micro_batch: int
    max_model_len: int
    max_num_seqs: int
    reference: bool = False
    """A frozen copy for the KL term."""
    checkpointing: bool | None = None
    """None: off where it fits so, else on."""
    fused: bool = True
    """Norms, rotary embedding and SwiGLU are fused kernels."""
    entropy: bool = False
    """The loss has an entropy term: the head holds one array more (as where the model caps its logits)."""
    head_float32: bool = False
    """The head computes in float32: the trainer has a copy of its weight. (The engine has none: its product adds up in
    float32, from bfloat16.)"""
    keep: bool | None = None
    """The bfloat16 copies stay through a step; None: where footprint.py wants it and it fits."""

    @property
    def longest_micro_batch(self) -> int:
        """Tokens of the largest micro-batch that there can be."""
        return max(self.tokens_per_micro_batch, self.max_model_len)

    @property
    def gpus(self) -> int:
        """All GPUs."""
        engines = self.engines * self.tensor_parallel
        return max(self.trainers, engines) if self.shared else self.trainers + engines


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
class Remedy:
    """Something that makes it fit: in words, and as the layout that is then planned."""

    words: str
    layout: Layout


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


# ── the trainer ────────────────────────────────────────────────────────────────────────────────────────────────────


def layer_bytes(shape: ModelShape, *, fused: bool) -> int:
    """Bytes per token that autograd keeps of one block (bfloat16). The module's text has the table."""
    h, i = shape.hidden, shape.intermediate
    query, key = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    attention = 4 * query + 4 * key + 4 * shape.heads
    if fused:
        norms, mlp = 8 * h + 2 * 4, 6 * i
        head_norms = 2 * (query + key) + 4 * (shape.heads + shape.kv_heads)
    else:
        norms, mlp = 16 * h + 2 * 4, 8 * i
        head_norms = 6 * (query + key) + 4 * (shape.heads + shape.kv_heads)
    return norms + attention + mlp + (head_norms if shape.query_key_norm else 0)


def end_bytes(shape: ModelShape, *, fused: bool) -> int:
    """Bytes per token outside the blocks: final norm, the head's input and its gradient, the rotary angles."""
    return (6 if fused else 10) * shape.hidden + 4 * shape.head_dim


def backward_bytes(shape: ModelShape, *, fused: bool) -> int:
    """Bytes per token of a block's gradients at their widest, in the MLP."""
    return 8 * shape.hidden + (4 if fused else 8) * shape.intermediate


def _trainer(shape: ModelShape, layout: Layout, *, checkpointing: bool, keep: bool) -> tuple[tuple[str, int], ...]:
    """The parts that the allocator should show at the peak of a step."""
    tokens, fused = layout.longest_micro_batch, layout.fused

    def sharded(each: int) -> int:
        return each * -(-shape.parameters // layout.trainers)

    block = layer_bytes(shape, fused=fused)
    kept = shape.layers * (2 * shape.hidden if checkpointing else block) + end_bytes(shape, fused=fused)
    more = layout.entropy or shape.capped
    head = head_bytes(shape.vocabulary, shape.hidden, tokens, entropy_or_cap=more, float32=layout.head_float32)
    chunk = min(tokens, chunk_tokens(shape.vocabulary, cuda=True))

    def exchanged(parameters: int) -> int:
        """Gradients on their way: whole in bfloat16 and as float32, and the share that comes back."""
        return (COMPUTE + GRADIENT) * parameters + GRADIENT * -(-parameters // layout.trainers)

    # Instead of the head's chunk there is one block's backward, while the head's gradient waits for the end; and at the
    # end, when no activations are left, that of embedding and head themselves.
    width = backward_bytes(shape, fused=fused) + (block if checkpointing else 0)
    backward = tokens * width + exchanged(shape.block) + COMPUTE * shape.vocabulary * shape.hidden
    other = max(backward, exchanged(shape.root) - tokens * kept)
    compute = COMPUTE * (shape.parameters if keep else shape.root + BLOCKS_WHOLE * shape.block)
    reference = sharded(REFERENCE) + COMPUTE * shape.root if layout.reference else 0
    return (
        ("weights (float32)", sharded(MASTER)),
        ("gradients (float32)", sharded(GRADIENT)),
        ("optimizer (two float32 moments)", sharded(MOMENTS)),
        ("reference model", reference),
        ("compute copies (bfloat16)", compute),
        (f"activations of {tokens:,} tokens{', checkpointed' if checkpointing else ''}", tokens * kept),
        (f"head, {chunk:,} tokens a chunk", head),
        ("the rest of the backward, beyond the head's room", max(0, other - head)),
    )


def _slack(peak: int, *, processes: int) -> int:
    """What no tensor holds: the allocator's fragments, the CUDA context, NCCL."""
    return math.ceil(peak * FRAGMENTATION) + CONTEXT + (NCCL if processes > 1 else 0)


# ── the engine ─────────────────────────────────────────────────────────────────────────────────────────────────────


def kv_bytes(shape: ModelShape, *, tensor_parallel: int = 1) -> int:
    """Bytes of one token's keys and values on one of an engine's GPUs, bfloat16."""
    return 2 * 2 * shape.layers * max(1, -(-shape.kv_heads // tensor_parallel)) * shape.head_dim


def _engine(shape: ModelShape, layout: Layout) -> tuple[tuple[str, int], ...]:
    """All but keys and values."""
    over = layout.tensor_parallel
    widest = 4 * shape.hidden + (6 * shape.intermediate + 6 * shape.heads * shape.head_dim) // over
    profile = BATCHED_TOKENS * widest + SAMPLER_BYTES * layout.max_num_seqs * shape.vocabulary
    return (
        ("engine: weights (bfloat16)", COMPUTE * -(-shape.parameters // over)),
        ("engine: its profile run and CUDA graphs", profile + GRAPHS),
    )


def _keys(shape: ModelShape, layout: Layout, *, left: int, most: int | None) -> int:
    """Bytes for keys and values: what is left, at most those of `most` tokens, and never less than is of use."""
    each = kv_bytes(shape, tensor_parallel=layout.tensor_parallel)
    least = min(LEAST_SEQUENCES, layout.max_num_seqs) * layout.max_model_len * each
    return max(least, left if most is None else min(left, most * each))


# ── both ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def memory_plan(shape: ModelShape, layout: Layout, *, there: int | None = None) -> MemoryPlan:
    """The plan; where it cannot fit, its `problem` says why, and what would. `there`: GPUs of the machine, to say of
    what would fit where that is more."""
    found = _plan(shape, layout)
    if found.problem is None:
        return found
    remedies = tuple(_remedies(shape, layout, there=there))
    would = "; or ".join(remedy.words for remedy in remedies)
    what = f"It would fit with: {would}" if would else "Nothing that is known here makes it fit: take larger GPUs"
    return replace(found, problem=f"{found.problem}. {what}", remedies=remedies)


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
    trainer = _trainer(shape, layout, checkpointing=checkpointing, keep=keep)
    engine = _engine(shape, layout)
    peak, fixed = (sum(size for _, size in parts) for parts in (trainer, engine))
    slack = _slack(peak, processes=layout.trainers)
    # New weights come in tensor by tensor, beside what the engine counts as its own.
    beside = CONTEXT + (NCCL if over > 1 else 0) + COMPUTE * shape.vocabulary * shape.hidden // over
    if layout.shared:
        left = capacity - peak - slack - beside - fixed
        keys = _keys(shape, layout, left=left, most=layout.max_num_seqs * layout.max_model_len)
        parts = (*trainer, *engine, (KEYS, keys), ("slack", slack + beside))
        gpus: tuple[GpuPlan, ...] = (
            GpuPlan(what="trainer and engine", gpus=layout.gpus, parts=parts, capacity=capacity),
        )
        share = (fixed + keys) / capacity
    else:
        # All of it, also what is more than of use: it keeps prefixes.
        keys = _keys(shape, layout, left=int(ENGINE_SHARE * capacity) - fixed, most=None)
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


# ── what would fit ─────────────────────────────────────────────────────────────────────────────────────────────────


def _remedies(shape: ModelShape, layout: Layout, *, there: int | None) -> Iterator[Remedy]:
    """Smallest change first. Each one alone makes it fit."""

    def fits(one: Layout) -> bool:
        return _plan(shape, one).problem is None

    free = replace(layout, checkpointing=None)
    if layout.checkpointing is False and fits(free):
        yield Remedy(words="activation checkpointing", layout=free)

    def with_tokens(tokens: int) -> Layout:
        return replace(free, tokens_per_micro_batch=tokens)

    tokens = _largest(layout.max_model_len, layout.tokens_per_micro_batch - 1, lambda t: fits(with_tokens(t)))
    if tokens is not None:
        yield Remedy(words=f"spec.algorithm.tokensPerMicroBatch of at most {tokens}", layout=with_tokens(tokens))

    def with_length(length: int) -> Layout:
        return replace(free, tokens_per_micro_batch=min(length, free.tokens_per_micro_batch), max_model_len=length)

    if tokens is None:
        length = _largest(16, layout.max_model_len - 1, lambda n: fits(with_length(n)))
        if length is not None:
            words = f"spec.rollout.maxPromptTokens + maxResponseTokens of at most {length}"
            if length < layout.tokens_per_micro_batch:
                words += ", and spec.algorithm.tokensPerMicroBatch no more than that"
            yield Remedy(words=words, layout=with_length(length))
    apart = _apart(shape, free, fits)
    together = _together(free, fits) if layout.shared else None
    if together is not None and (apart is None or together.gpus < apart.gpus):
        both = f"spec.ray.trainers.replicas and engines.replicas {together.trainers}"
        yield Remedy(words=f"{_gpus(together, there)}: {both}, placement Shared", layout=together)
    elif apart is not None:
        words = f"spec.ray.trainers.replicas {apart.trainers}, engines.replicas {apart.engines}"
        if apart.tensor_parallel > layout.tensor_parallel:
            words += f", engines.tensorParallelSize {apart.tensor_parallel}"
        if layout.shared:
            words += ", placement Separate"
        yield Remedy(words=f"{_gpus(apart, there)}: {words}", layout=apart)


def _gpus(layout: Layout, there: int | None) -> str:
    """How many it takes, and where that is more than there are, how many there are."""
    missing = f" (here: {there})" if there is not None and layout.gpus > there else ""
    return f"{layout.gpus} GPUs{missing}"


def _apart(shape: ModelShape, layout: Layout, fits: Callable[[Layout], bool]) -> Layout | None:
    """The fewest GPUs, trainers and engines apart: engines as wide as they must be, then trainers as many."""
    many = replace(layout, shared=False, trainers=MOST_GPUS)
    widths = filter(shape.splits, range(layout.tensor_parallel, min(64, shape.heads) + 1))
    over = next((over for over in widths if fits(replace(many, tensor_parallel=over))), None)
    if over is None:
        return None
    wide = replace(many, tensor_parallel=over)
    trainers = _smallest(layout.trainers, MOST_GPUS, lambda n: fits(replace(wide, trainers=n)))
    return None if trainers is None else replace(wide, trainers=trainers)


def _together(layout: Layout, fits: Callable[[Layout], bool]) -> Layout | None:
    """The fewest GPUs with one of each on every one."""
    number = _smallest(layout.trainers, MOST_GPUS, lambda n: fits(replace(layout, trainers=n, engines=n)))
    return None if number is None else replace(layout, trainers=number, engines=number)


def _largest(low: int, high: int, holds: Callable[[int], bool]) -> int | None:
    """The largest in [low, high] that holds, where all below one that holds do; None: not even the lowest."""
    if high < low or not holds(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def _smallest(low: int, high: int, holds: Callable[[int], bool]) -> int | None:
    """The smallest in [low, high] that holds, where all above one that holds do; None: not even the highest."""
    found = _largest(-high, -low, lambda n: holds(-n))
    return None if found is None else -found
