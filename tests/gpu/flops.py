"""Work of a train step in floating-point operations, and what a card can do. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from gpu.models import Shape

DENSE_BF16 = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
}
"""Operations a second of bfloat16 matrix products without sparsity, from NVIDIA's data sheets; the first name that a
card's name holds counts. Without a variant: SXM."""


def matmul_parameters(shape: Shape) -> int:
    """Of the layers' matrix products: neither the embedding, which is looked up, nor the head."""
    attention = 2 * shape.hidden * shape.head_dim * (shape.heads + shape.kv_heads)
    return shape.layers * (attention + 3 * shape.hidden * shape.intermediate)


def step_flops(shape: Shape, lengths: Sequence[int], *, trained: int) -> float:
    """Forward and backward of a batch, nothing computed twice.

    6 a parameter and token (2 forward, 4 backward); the head for trained tokens alone; attention 12 · layers · heads ·
    head_dim · Σ length², of which a causal mask leaves half (arXiv 2204.02311, appendix B, whose count is not halved).
    """
    layers = 6.0 * matmul_parameters(shape) * sum(lengths)
    head = 6.0 * shape.vocabulary * shape.hidden * trained
    attention = 12.0 * shape.layers * shape.heads * shape.head_dim * sum(n * n for n in lengths) / 2
    return layers + head + attention


def peak_flops(card: str) -> float | None:
    """None for a card that is not in the table."""
    return next((peak for name, peak in DENSE_BF16.items() if name in card), None)
