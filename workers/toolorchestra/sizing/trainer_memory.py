"""Computes the GPU memory of a trainer. Pure: from sizes to bytes.

**Trainer** (trainer.py: FSDP2, float32 master weights, AdamW, bfloat16 compute), bytes per parameter, sharded over the
trainers: weights 4, gradients 4, the two moments 8. In addition, not sharded, bfloat16 copies of the layers that
compute: the root (embedding and head stay whole from the forward to the end of the backward) and some blocks. On one
rank with enough room, all copies stay (footprint.py decides; the trainer follows it too).

**Activations** per token and layer: what autograd keeps of one block. Based on Korthikanti et al. 2022 (arXiv
2205.05198, section 4), counted again for a block with RMSNorm, rotary embedding, grouped queries, flash attention and
SwiGLU. h hidden, i intermediate, q = heads x head_dim, k = kv heads x head_dim; bfloat16 (2 bytes) unless stated:

| kept for the backward                           | modules as in transformers | fused kernels    |
|-------------------------------------------------|----------------------------|------------------|
| two norms: input (float32 copy / as it is)      | 2 · 4h                     | 2 · 2h           |
| … their value before the weight, and after it   | 2 · (2h + 2h)              | 2 · 2h           |
| norms of query and key, where there are such    | 6q + 6k                    | 2q + 2k          |
| attention: query, key, value, output            | 2q + 2k + 2k + 2q          | the same         |
| … its log-sum-exp, float32                      | 4 · heads                  | the same         |
| SwiGLU: gate, up, their product                 | 2i + 2i + 2i               | the same         |
| … silu(gate)                                    | 2i                         | computed again   |

tests/unit/sizing/test_memory.py compares the left column with what autograd keeps of the real module. With
checkpointing a layer keeps only its input (2h), and one block at a time is computed again.

**Head** (logprob.py, footprint.py): a chunk of logits and the gradient of its weight, while all activations exist.
"""

from __future__ import annotations

from typing import Final

from toolorchestra.sizing.layout import Layout
from toolorchestra.sizing.model_shape import ModelShape
from toolorchestra.trainer.footprint import chunk_tokens, head_bytes

MASTER, GRADIENT, MOMENTS, COMPUTE, REFERENCE = 4, 4, 8, 2, 4
"""Bytes per parameter: float32 weights and gradient, AdamW's two float32 moments, bfloat16 copy, frozen float32."""
BLOCKS_WHOLE: Final = 3
"""Blocks that have bfloat16 copies at the same time: one that computes, the next in its buffer and gathered."""


def layer_bytes(shape: ModelShape, *, fused: bool) -> int:
    """Return the bytes per token that autograd keeps of one block (bfloat16); see the table in the module."""
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
    """Return the bytes per token outside the blocks: final norm, the head's input and its gradient, rotary angles."""
    return (6 if fused else 10) * shape.hidden + 4 * shape.head_dim


def backward_bytes(shape: ModelShape, *, fused: bool) -> int:
    """Return the bytes per token of a block's gradients at their peak, in the MLP."""
    return 8 * shape.hidden + (4 if fused else 8) * shape.intermediate


def trainer_parts(shape: ModelShape, layout: Layout, *, checkpointing: bool, keep: bool) -> tuple[tuple[str, int], ...]:
    """Return the parts that the allocator should show at the peak of a step."""
    tokens, fused = layout.longest_micro_batch, layout.fused

    def sharded(each: int) -> int:
        return each * -(-shape.parameters // layout.trainers)

    block = layer_bytes(shape, fused=fused)
    kept = shape.layers * (2 * shape.hidden if checkpointing else block) + end_bytes(shape, fused=fused)
    more = layout.entropy or shape.capped
    head = head_bytes(shape.vocabulary, shape.hidden, tokens, entropy_or_cap=more, float32=layout.head_float32)
    chunk = min(tokens, chunk_tokens(shape.vocabulary, cuda=True))

    def exchanged(parameters: int) -> int:
        """Return the bytes of gradients in exchange: whole in bfloat16 and float32, and the share that returns."""
        return (COMPUTE + GRADIENT) * parameters + GRADIENT * -(-parameters // layout.trainers)

    # One block's backward replaces the head's chunk, while the head's gradient waits for the end. At the end, without
    # activations, the gradients of embedding and head are exchanged.
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
