"""`Likelihood`: the mean negative log likelihood of the trained tokens. The warm start uses it."""

from __future__ import annotations

from toolorchestra.trainer.objectives.objective import LossInputs, LossOutputs


def likelihood(inputs: LossInputs) -> LossOutputs:
    """Return the cross entropy. Advantages and the sampler's log probabilities are not read."""
    entropy = (inputs.weights * inputs.entropy.detach()).sum()
    return LossOutputs(-(inputs.weights * inputs.logprobs).sum(), {"entropy": entropy})
