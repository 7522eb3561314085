"""`Clipped`: PPO's clipped surrogate, with the ratio to the *sampler's* log probabilities.

There is no old-policy pass, because the engine that sampled is the old policy. So one ratio corrects both mismatch
(between trainer and engine) and staleness, once. loss_t = -min(r A, clip(r, 1 - low, 1 + high) A) - c_H H + c_KL KL.
Same formula as TRL's `loss_type="dapo"` and verl's `compute_policy_loss_vanilla`; see tests/parity.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from jaxtyping import Float
from torch import Tensor

from toolorchestra.trainer.batch import KLEstimator, LossConfig
from toolorchestra.trainer.objectives.mismatch import policy_sums
from toolorchestra.trainer.objectives.objective import MAX_LOG_RATIO, LossInputs, LossOutputs


def reference_kl(
    logprobs: Float[Tensor, " trained"], reference: Float[Tensor, " trained"], estimator: KLEstimator
) -> Float[Tensor, " trained"]:
    """Return an estimate per token [N] of KL(policy || reference), from sampled tokens.

    Source: http://joschu.net/blog/kl-approx.html."""
    delta = (logprobs - reference).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    match estimator:
        case "k1":
            return delta
        case "k2" | "half_delta_squared":
            # One formula with two names: k2 in Schulman's note, ½Δ² in the method's recipe.
            return 0.5 * delta.square()
        case "k3":
            return torch.expm1(-delta) + delta


@dataclass(frozen=True, kw_only=True)
class Clipped(LossConfig):
    """The objective, with its settings."""

    @classmethod
    def of(cls, config: LossConfig) -> Clipped:
        """Return the objective with the settings of a step."""
        return cls(**{each.name: getattr(config, each.name) for each in fields(LossConfig)})

    def surrogate(
        self, ratio: Float[Tensor, " trained"], advantages: Float[Tensor, " trained"]
    ) -> Float[Tensor, " trained"]:
        """Return the loss per token [N] before masks: the pessimistic bound, with a cap where A < 0 if `dual_clip`."""
        clipped_ratio = ratio.clamp(1 - self.clip_low, 1 + self.clip_high)
        loss = torch.maximum(-ratio * advantages, -clipped_ratio * advantages)
        if self.dual_clip is None:
            return loss
        return torch.where(advantages < 0, torch.minimum(loss, -self.dual_clip * advantages), loss)

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        log_ratio = (inputs.logprobs - inputs.sampler_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        ratio = log_ratio.exp()
        weights, advantages = inputs.weights, inputs.advantages
        per_token = self.surrogate(ratio, advantages)
        kept = torch.ones_like(per_token)
        if self.mask_band is not None:
            low, high = self.mask_band
            kept = ((ratio.detach() >= low) & (ratio.detach() <= high)).float()
            per_token = per_token * kept
        if self.entropy_coefficient:
            per_token = per_token - self.entropy_coefficient * inputs.entropy
        sums: dict[str, Tensor] = {}
        if self.kl_coefficient:
            if inputs.reference_logprobs is None:
                raise ValueError("a KL term needs the reference's log probabilities")
            kl = reference_kl(inputs.logprobs, inputs.reference_logprobs, self.kl_estimator)
            per_token = per_token + self.kl_coefficient * kl
            sums["reference_kl"] = (weights * kl.detach()).sum()
        with torch.no_grad():
            above, below = ratio > 1 + self.clip_high, ratio < 1 - self.clip_low
            outside = (above & (advantages > 0)) | (below & (advantages < 0))
            sums |= policy_sums(inputs, log_ratio)
            sums |= {"clipped": (weights * outside).sum(), "masked": (weights * (1 - kept)).sum()}
            maxima = {"ratio": ratio.amax() if len(ratio) else ratio.new_zeros(())}
        return LossOutputs((weights * per_token).sum(), sums, maxima)
