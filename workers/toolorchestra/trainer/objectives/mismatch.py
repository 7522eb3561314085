"""Mismatch: the difference of trainer and engine on tokens that the engine sampled with the trainer's current weights.

With d = log p(trainer) - log p(engine) of a sampled token, k3 = exp(d) - 1 - d estimates KL(engine || trainer). It is
never negative, 0 only if the two agree, and unbiased if the engine's kernels sampled the token (k3 of Schulman's
"Approximating KL divergence", http://joschu.net/blog/kl-approx.html, where r is exp(d) and q is the engine). A token
of other weights also differs by what was learned since. That says nothing about kernels, so only fresh tokens count.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from toolorchestra.trainer.objectives.objective import MAX_LOG_RATIO, LossInputs


@torch.no_grad()
def policy_sums(inputs: LossInputs, log_ratio: Float[Tensor, " trained"]) -> dict[str, Tensor]:
    """Return what every objective reports of a micro-batch, [] each: the weighted sums of entropy, ratio and an
    estimate of KL(sampler || policy), and the mismatch. `log_ratio`: policy minus sampler, clamped."""
    weights = inputs.weights
    return {
        "entropy": (weights * inputs.entropy).sum(),
        "ratio": (weights * log_ratio.exp()).sum(),
        "approx_kl": (weights * (torch.expm1(log_ratio) - log_ratio)).sum(),
        **mismatch_sums(inputs),
    }


@torch.no_grad()
def mismatch_sums(inputs: LossInputs) -> dict[str, Tensor]:
    """Return float64 scalars: plain sums over the fresh tokens. Empty if the inputs do not say which tokens are fresh.

    `fresh` is their number; `fresh_k3` and `fresh_square` are the sums of k3 (nats) and d² (nats²). They are float64,
    because for a healthy d, exp(d) - 1 - d in float32 is only rounding. Nothing here waits for the device.
    """
    if inputs.fresh is None:
        return {}
    d = (inputs.logprobs.double() - inputs.sampler_logprobs.double()).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    # torch.where, not a product: a value of another token that is not finite must not enter the sum.
    d = torch.where(inputs.fresh, d, 0.0)
    return {
        "fresh": inputs.fresh.sum(dtype=torch.float64),
        "fresh_k3": (torch.expm1(d) - d).sum(),
        "fresh_square": d.square().sum(),
    }
