"""Input and output of an objective. All tensors [N]: the trained tokens of one packed micro-batch, float32."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

MAX_LOG_RATIO = 20.0
"""Limit of log ratios. exp(20) is far outside every clip; above it float32 overflows, and one token would dominate."""


@dataclass(frozen=True)
class LossInputs:
    logprobs: Tensor
    """[N]: the policy's, with gradient"""
    entropy: Tensor
    """[N]: the policy's, with gradient"""
    sampler_logprobs: Tensor
    """[N]: those of the engine that sampled"""
    advantages: Tensor
    """[N]"""
    weights: Tensor
    """[N]: share of each token. They sum to 1 over the *global* batch, so sums over batches and ranks are means"""
    reference_logprobs: Tensor | None = None
    """[N]: those of the frozen reference; only with a KL term"""
    fresh: Tensor | None = None
    """[N] bool: sampled with the policy's current weights, so that any difference is mismatch"""


@dataclass(frozen=True)
class LossOutputs:
    loss: Tensor
    """[]: this micro-batch's part of the loss. Parts add up"""
    sums: dict[str, Tensor] = field(default_factory=dict)
    """[] each, detached: weighted sums that add up to means"""
    maxima: dict[str, Tensor] = field(default_factory=dict)
    """[] each, detached"""


class Objective(Protocol):
    def __call__(self, inputs: LossInputs) -> LossOutputs: ...
