"""What a step holds on a CUDA GPU beside weights and activations: sizes that are chosen, and what they cost. Pure.

The trainer follows these constants and the memory plan counts them, so that the two cannot part. Bytes everywhere.
"""

from __future__ import annotations

CHUNK_ELEMENTS_CPU = 1 << 22
"""Logits that the head holds at a time on a CPU (16 MiB in float32): they stay near the caches."""
CHUNK_ELEMENTS_CUDA = 1 << 28
"""The same on a GPU (1 GiB in float32): 1,766 tokens of a vocabulary of 152k. 27 tokens, the CPU's chunk, were half of
a 1.7B step: every chunk adds its part to a gradient of the whole head."""
FORWARD_BYTES = 8
"""Per logit of a chunk in the forward: the logits and their exponentials, float32."""
BACKWARD_BYTES = 6
"""In the backward: the logits again, and their gradient in bfloat16."""
BACKWARD_BYTES_MORE = 14
"""The same where the loss has an entropy term or the logits a cap: a few float32 arrays at once."""


def chunk_tokens(vocabulary: int, *, cuda: bool) -> int:
    """Tokens of one chunk of the head, at least 16. A function of device and vocabulary alone: it repeats."""
    return max(16, (CHUNK_ELEMENTS_CUDA if cuda else CHUNK_ELEMENTS_CPU) // vocabulary)


def head_bytes(
    vocabulary: int, hidden: int, tokens: int, *, entropy_or_cap: bool = False, float32: bool = False
) -> int:
    """What the head holds on CUDA at its peak, beside its weight, for a micro-batch of `tokens` trained tokens.

    Either a chunk of the forward, or one of the backward with the weight's gradient: its sum in float32 and the product
    that is added to it. `float32`: a copy of the weight for `TrainerConfig.head_float32` too.
    """
    chunk = min(tokens, chunk_tokens(vocabulary, cuda=True))
    backward = chunk * vocabulary * (BACKWARD_BYTES_MORE if entropy_or_cap else BACKWARD_BYTES)
    gradient = vocabulary * hidden * (8 if tokens > chunk else 2)
    copy = vocabulary * hidden * 4 if float32 else 0
    return copy + max(chunk * vocabulary * FORWARD_BYTES, backward + gradient)


STATE_BYTES = 18
"""Per parameter, on one rank that keeps compute copies: float32 master 4, AdamW 8, float32 gradient 4, bfloat16 copy 2.
Without keeping them 16: a gradient that adds up in float32 is as large whole as sharded on one rank."""
KEEP_SHARE = 0.5
"""Largest share of a GPU's memory that these may take: the rest is activations', the head's and maybe an engine's."""


def keeps_compute_weights(parameters: int, *, gpu_bytes: int, ranks: int) -> bool:
    """Whether a trainer on CUDA holds its bfloat16 copy through all micro-batches of a step (sharding.py)."""
    return ranks == 1 and parameters * STATE_BYTES <= KEEP_SHARE * gpu_bytes
