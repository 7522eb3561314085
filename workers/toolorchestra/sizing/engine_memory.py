"""Computes the GPU memory of an engine. Pure: from sizes to bytes.

**Engine** (vLLM): bfloat16 weights, memory for its profile run and CUDA graphs; the rest is for keys and values. vLLM
counts its share (`--gpu-memory-utilization`) of the whole GPU, without its CUDA context. It does not start if less than
that share is free. So the plan is valid whichever of trainer and engine starts first.
"""

from __future__ import annotations

from typing import Final

from toolorchestra.sizing.layout import Layout
from toolorchestra.sizing.model_shape import ModelShape
from toolorchestra.sizing.trainer_memory import COMPUTE

BATCHED_TOKENS: Final = 8192
"""Tokens of the engine's profile run: vLLM's default for a server on a large GPU (`--max-num-batched-tokens`)."""
SAMPLER_BYTES: Final = 12
"""Bytes per sequence and vocabulary entry in the engine's sampler: float32 logits and two tensors of that size."""
GRAPHS: Final = 1 << 30
"""Bytes of the engine's CUDA graphs."""
LEAST_SEQUENCES: Final = 8
"""Fewest full-length sequences for which an engine must have room: with fewer, it waits more than it works. (Real
sequences are shorter than the longest.)"""


def kv_bytes(shape: ModelShape, *, tensor_parallel: int = 1) -> int:
    """Return the bytes of one token's keys and values on one of an engine's GPUs, in bfloat16."""
    return 2 * 2 * shape.layers * max(1, -(-shape.kv_heads // tensor_parallel)) * shape.head_dim


def engine_parts(shape: ModelShape, layout: Layout) -> tuple[tuple[str, int], ...]:
    """Return all parts of an engine's memory except keys and values."""
    over = layout.tensor_parallel
    widest = 4 * shape.hidden + (6 * shape.intermediate + 6 * shape.heads * shape.head_dim) // over
    profile = BATCHED_TOKENS * widest + SAMPLER_BYTES * layout.max_num_seqs * shape.vocabulary
    return (
        ("engine: weights (bfloat16)", COMPUTE * -(-shape.parameters // over)),
        ("engine: its profile run and CUDA graphs", profile + GRAPHS),
    )


def key_bytes(shape: ModelShape, layout: Layout, *, left: int, most: int | None) -> int:
    """Return the bytes for keys and values: what is left, at most `most` tokens, at least the useful minimum."""
    each = kv_bytes(shape, tensor_parallel=layout.tensor_parallel)
    least = min(LEAST_SEQUENCES, layout.max_num_seqs) * layout.max_model_len * each
    return max(least, left if most is None else min(left, most * each))
