"""The layout of a training: which processes run on which GPUs, with the sizes that decide their memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Processes and sizes. `tokens_per_micro_batch`, `max_model_len`: a longer sequence is a micro-batch of its own."""

    gpu_bytes: int
    """Whole memory of one GPU."""
    trainers: int = 1
    engines: int = 1
    tensor_parallel: int = 1
    """GPUs per engine."""
    shared: bool = False
    """Whether a trainer and an engine share each GPU."""
    tokens_per_micro_batch: int
    max_model_len: int
    max_num_seqs: int
    reference: bool = False
    """Whether there is a frozen copy of the model for the KL term."""
    checkpointing: bool | None = None
    """Activation checkpointing. None: off if it fits, else on."""
    fused: bool = True
    """Whether norms, rotary embedding and SwiGLU are fused kernels."""
    entropy: bool = False
    """Whether the loss has an entropy term. Then the head needs one array more (also if the model caps its logits)."""
    head_float32: bool = False
    """Whether the head computes in float32. Then the trainer has a float32 copy of its weight. (The engine has none: it
    multiplies in bfloat16 and accumulates in float32.)"""
    keep: bool | None = None
    """Whether the bfloat16 copies stay through a step. None: if footprint.py recommends it and it fits."""

    @property
    def longest_micro_batch(self) -> int:
        """Tokens of the largest possible micro-batch."""
        return max(self.tokens_per_micro_batch, self.max_model_len)

    @property
    def gpus(self) -> int:
        """Total number of GPUs."""
        engines = self.engines * self.tensor_parallel
        return max(self.trainers, engines) if self.shared else self.trainers + engines
