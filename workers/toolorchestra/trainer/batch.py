"""Input and output of a training step: samples, the step's settings, its metrics. Plain data without torch.

Invariant of a sample: `token_ids`, `loss_mask` and `logprobs` are aligned. `logprobs[i]` is the sampler's log
probability of token i if `loss_mask[i]` is set. Elsewhere it is not read (write 0 there).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Self

from toolorchestra.trainer.errors import TrainerError

KLEstimator = Literal["k1", "k2", "k3", "half_delta_squared"]
Aggregation = Literal["token_mean", "sequence_mean"]

HEALTHY_K3 = (0.0004, 0.003)
"""KL of trainer and engine, nats per token, in bfloat16: the observed range of runs that learn."""
MOST_K3 = 0.015
"""Above it, trainer and engine no longer compute the same policy. prime-rl accepts no change with a higher mean."""


class NonFiniteStep(TrainerError, RuntimeError):
    """Loss or gradient is not finite. The step was not applied; the parameters are unchanged."""


@dataclass(frozen=True, slots=True)
class TrainSample:
    """One training sequence, with the advantage of its episode."""

    token_ids: Sequence[int]
    loss_mask: Sequence[bool]
    """Tokens that the policy sampled and that are trained on. Never the first token, because nothing precedes it."""
    logprobs: Sequence[float]
    """Log probabilities in nats, from the engine that sampled, at temperature 1."""
    advantage: float = 0.0
    fresh: Sequence[bool] = ()
    """Tokens that were sampled with the weights from which the step starts. Empty: none is known to be. Only read where
    `loss_mask` is set."""

    def __post_init__(self) -> None:
        n = len(self.token_ids)
        if not (len(self.loss_mask) == len(self.logprobs) == n):
            raise ValueError(
                f"a sample's fields must align: {n} token ids, {len(self.loss_mask)} in the mask, "
                f"{len(self.logprobs)} logprobs"
            )
        if len(self.fresh) not in (0, n):
            raise ValueError(f"a sample's fields must align: {n} token ids, {len(self.fresh)} in `fresh`")
        if n < 2:
            raise ValueError("a sample needs at least two tokens: the first one is never predicted")
        if self.loss_mask[0]:
            raise ValueError("the first token of a sample cannot be trained: nothing precedes it")

    @property
    def trained_tokens(self) -> int:
        return sum(map(bool, self.loss_mask))


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Settings of a token's loss. Published recipe: method.md §4. None disables a correction."""

    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = None
    """Cap of the loss at `dual_clip` x |A| where A < 0 (arXiv 1912.09729). The released recipe uses 10."""
    mask_band: tuple[float, float] | None = None
    """IcePop: tokens whose ratio to the sampler is outside [low, high] are masked (they stay in the token count)."""
    entropy_coefficient: float = 0.0
    kl_coefficient: float = 0.0
    kl_estimator: KLEstimator = "k3"


@dataclass(frozen=True, kw_only=True)
class StepConfig(LossConfig):
    """Settings of one optimizer step."""

    lr: float = 1e-6
    aggregation: Aggregation = "token_mean"
    max_grad_norm: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    objective: str = "Clipped"
    """`Clipped`, or `package/Name` of a plug-in."""
    token_budget: int = 8192
    """Tokens of one packed micro-batch. A longer sequence is a micro-batch of its own."""


@dataclass(frozen=True, kw_only=True)
class Mismatch:
    """The difference between trainer and engine (objectives/mismatch.py).

    It is measured on the trained tokens of the global batch that were sampled with the step's own weights (staleness
    0). Tokens of older weights also differ by what was learned since, so they do not count."""

    k3: float
    """Estimate of KL(engine || trainer), nats per token."""
    rms: float
    """Root of the mean square of log p(trainer) - log p(engine), nats."""
    tokens: int
    """Number of these tokens."""

    @classmethod
    def of(cls, sums: Mapping[str, float]) -> Self | None:
        """Return it from the sums of `mismatch_sums` over micro-batches and ranks; None if no token counts."""
        tokens = round(sums.get("fresh", 0.0))
        if tokens == 0:
            return None
        return cls(k3=sums["fresh_k3"] / tokens, rms=math.sqrt(sums["fresh_square"] / tokens), tokens=tokens)


@dataclass(frozen=True, kw_only=True)
class StepMetrics:
    """Metrics of one optimizer step. Means are over the trained tokens of the global batch, on all ranks."""

    loss: float
    grad_norm: float
    """Norm before clipping."""
    entropy: float
    """Nats per trained token."""
    ratio_mean: float
    """Mean of policy / sampler probability: 1 if trainer and sampler agree."""
    ratio_max: float
    clip_fraction: float
    masked_fraction: float
    """Share of trained tokens that `mask_band` masked."""
    approx_kl: float
    """k3 estimate of KL(sampler || policy), nats per token (http://joschu.net/blog/kl-approx.html). It includes
    staleness and mismatch; `mismatch` is the latter only."""
    reference_kl: float | None
    tokens: int
    """All tokens that went through the model, including prompts."""
    trained_tokens: int
    micro_batches: int
    """Number per rank."""
    mismatch: Mismatch | None = None
    """None if no token of the step was sampled with the step's own weights."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall-clock seconds by phase: pack, reference, forward, backward, optimizer, total."""
