"""Memory of a step on a CUDA GPU besides weights and activations: chosen sizes, and what they cost. Pure.

The trainer uses these constants and the memory plan counts them, so that both always agree. All sizes are in bytes.
"""

from __future__ import annotations

CHUNK_ELEMENTS_CPU = 1 << 22
"""Logits that the head holds at a time on a CPU (16 MiB in float32), so that they stay in the caches."""
CHUNK_ELEMENTS_CUDA = 1 << 28
"""The same on a GPU (1 GiB in float32): 1,766 tokens with a vocabulary of 152k. With the CPU's chunk of 27 tokens, the
head took half of the time of a 1.7B step, because every chunk adds its part to a gradient of the whole head."""
FORWARD_BYTES = 8
"""Bytes per logit of a chunk in the forward: the logits and their exponentials, float32."""
BACKWARD_BYTES = 6
"""Bytes per logit in the backward: the logits again, and their gradient in bfloat16."""
BACKWARD_BYTES_MORE = 14
"""The same if the loss has an entropy term or the logits have a cap: a few float32 arrays at once."""


def chunk_tokens(vocabulary: int, *, cuda: bool) -> int:
    """Return the tokens of one chunk of the head, at least 16. Depends only on device and vocabulary, so it repeats."""
    return max(16, (CHUNK_ELEMENTS_CUDA if cuda else CHUNK_ELEMENTS_CPU) // vocabulary)


def head_bytes(
    vocabulary: int, hidden: int, tokens: int, *, entropy_or_cap: bool = False, float32: bool = False
) -> int:
    """Return the peak memory of the head on CUDA, besides its weight, for a micro-batch of `tokens` trained tokens.

    The peak is a chunk of the forward, or a chunk of the backward with the weight's gradient: its float32 sum and the
    product that is added to it. `float32`: also a copy of the weight, for `TrainerConfig.head_float32`.
    """
    chunk = min(tokens, chunk_tokens(vocabulary, cuda=True))
    backward = chunk * vocabulary * (BACKWARD_BYTES_MORE if entropy_or_cap else BACKWARD_BYTES)
    gradient = vocabulary * hidden * (8 if tokens > chunk else 2)
    copy = vocabulary * hidden * 4 if float32 else 0
    return copy + max(chunk * vocabulary * FORWARD_BYTES, backward + gradient)


STATE_BYTES = 18
"""Bytes per parameter on one rank that keeps compute copies: float32 master 4, AdamW 8, float32 gradient 4, bfloat16
copy 2. Without keeping them 16: on one rank, a whole gradient that adds up in float32 is as large as a sharded one."""
KEEP_SHARE = 0.5
"""Largest share of a GPU's memory for these. The rest is for activations, the head and perhaps an engine."""


def keeps_compute_weights(parameters: int, *, gpu_bytes: int, ranks: int) -> bool:
    """Return whether a trainer on CUDA keeps its bfloat16 copy through all micro-batches of a step (sharding.py)."""
    return ranks == 1 and parameters * STATE_BYTES <= KEEP_SHARE * gpu_bytes
