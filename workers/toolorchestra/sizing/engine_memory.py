"""What an engine holds of its GPU. Pure: from sizes to bytes.

**Engine** (vLLM): bfloat16 weights, room for its own profile run and CUDA graphs, and the rest for keys and values. It
counts its share (`--gpu-memory-utilization`) of the whole GPU, without its CUDA context, and does not start where less
than that share is free. So the plan holds whichever of the two starts first.
"""

from __future__ import annotations

from typing import Final

from toolorchestra.sizing.layout import Layout
from toolorchestra.sizing.model_shape import ModelShape
from toolorchestra.sizing.trainer_memory import COMPUTE

BATCHED_TOKENS: Final = 8192
"""Tokens of the engine's profile run: vLLM's default for a server on a large GPU (`--max-num-batched-tokens`)."""
SAMPLER_BYTES: Final = 12
"""Per sequence and vocabulary entry in the engine's sampler: float32 logits and two tensors like them."""
GRAPHS: Final = 1 << 30
"""Of the engine's CUDA graphs."""
LEAST_SEQUENCES: Final = 8
"""Full-length sequences that an engine must have room for at least: with fewer it waits more than it works. (Real ones
are shorter than the longest.)"""


def kv_bytes(shape: ModelShape, *, tensor_parallel: int = 1) -> int:
    """Bytes of one token's keys and values on one of an engine's GPUs, bfloat16."""
    return 2 * 2 * shape.layers * max(1, -(-shape.kv_heads // tensor_parallel)) * shape.head_dim


def engine_parts(shape: ModelShape, layout: Layout) -> tuple[tuple[str, int], ...]:
    """All but keys and values."""
    over = layout.tensor_parallel
    widest = 4 * shape.hidden + (6 * shape.intermediate + 6 * shape.heads * shape.head_dim) // over
    profile = BATCHED_TOKENS * widest + SAMPLER_BYTES * layout.max_num_seqs * shape.vocabulary
    return (
        ("engine: weights (bfloat16)", COMPUTE * -(-shape.parameters // over)),
        ("engine: its profile run and CUDA graphs", profile + GRAPHS),
    )


def key_bytes(shape: ModelShape, layout: Layout, *, left: int, most: int | None) -> int:
    """Bytes for keys and values: what is left, at most those of `most` tokens, and never less than is of use."""
    each = kv_bytes(shape, tensor_parallel=layout.tensor_parallel)
    least = min(LEAST_SEQUENCES, layout.max_num_seqs) * layout.max_model_len * each
    return max(least, left if most is None else min(left, most * each))
