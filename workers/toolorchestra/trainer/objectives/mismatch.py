"""Mismatch: how far trainer and engine are apart on tokens that the engine sampled with the trainer's very weights.

With d = log p(trainer) - log p(engine) of a sampled token, k3 = exp(d) - 1 - d estimates KL(engine || trainer): never
negative, 0 only where the two agree, and without bias where the engine's kernels are what sampled (k3 of Schulman's
"Approximating KL divergence", http://joschu.net/blog/kl-approx.html, whose r is exp(d) and whose q is the engine).
A token of other weights differs by what was learned since, which says nothing of the kernels, so only the fresh count.
"""

from __future__ import annotations

import torch
from torch import Tensor

from toolorchestra.trainer.objectives.objective import MAX_LOG_RATIO, LossInputs


@torch.no_grad()
def mismatch_sums(inputs: LossInputs) -> dict[str, Tensor]:
    """[] float64 each, plain sums over the fresh tokens; empty where the inputs do not say which those are.

    `fresh` counts them, `fresh_k3` and `fresh_square` add up k3 (nats) and d² (nats²). In float64, since of a healthy d
    exp(d) - 1 - d is nothing but rounding in float32. Nothing here waits for the device.
    """
    if inputs.fresh is None:
        return {}
    d = (inputs.logprobs.double() - inputs.sampler_logprobs.double()).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    # A choice, not a product: what is not finite of another token must not get in.
    d = torch.where(inputs.fresh, d, 0.0)
    return {
        "fresh": inputs.fresh.sum(dtype=torch.float64),
        "fresh_k3": (torch.expm1(d) - d).sum(),
        "fresh_square": d.square().sum(),
    }
