"""What runs on which GPUs, in the sizes that its memory depends on."""

from __future__ import annotations

from dataclasses import dataclass


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
