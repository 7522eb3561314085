"""From the name in YAML to an objective."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from toolorchestra.plugins import PluginError, is_plugin, load, shown
from toolorchestra.trainer.batch import StepConfig
from toolorchestra.trainer.objectives.clipped import Clipped
from toolorchestra.trainer.objectives.mismatch import policy_sums
from toolorchestra.trainer.objectives.objective import (
    MAX_LOG_RATIO,
    LossInputs,
    LossOutputs,
    Objective,
    ObjectiveMaker,
)


def objective_of(config: StepConfig) -> Objective:
    """The step's objective with its settings. PluginError where a plug-in cannot be used."""
    if not is_plugin(config.objective):
        return Clipped.of(config)
    maker: ObjectiveMaker = load("toolorchestra.objectives", config.objective)
    try:
        return Measured(config.objective, maker(config))
    except Exception as error:
        raise PluginError(f"objective {config.objective} cannot be made: {shown(error)}") from error


@dataclass(frozen=True)
class Measured:
    """A plug-in's `objective`, known as `name`, with the measurements that every step reports added where it gives
    none: entropy, ratio, approx_kl and the mismatch; `clipped` and `masked` are 0. PluginError where it raises, or its
    loss is no scalar with a gradient."""

    name: str
    objective: Objective

    def __call__(self, inputs: LossInputs) -> LossOutputs:
        try:
            outputs = self.objective(inputs)
        except Exception as error:
            raise PluginError(f"objective {self.name} raised {shown(error)}") from error
        if not isinstance(outputs, LossOutputs) or not isinstance(outputs.loss, Tensor):
            raise PluginError(f"objective {self.name} gave a {type(outputs).__name__}; want LossOutputs with a tensor")
        loss = outputs.loss
        if loss.shape or not loss.requires_grad:
            shape = list(loss.shape)
            raise PluginError(f"objective {self.name} gave a loss of shape {shape}; want a scalar with a gradient")
        sums, maxima = _measurements(inputs)
        return LossOutputs(loss, {**sums, **outputs.sums}, {**maxima, **outputs.maxima})


@torch.no_grad()
def _measurements(inputs: LossInputs) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    log_ratio = (inputs.logprobs - inputs.sampler_logprobs).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    none = log_ratio.new_zeros(())
    sums = {"clipped": none, "masked": none, **policy_sums(inputs, log_ratio)}
    return sums, {"ratio": log_ratio.exp().amax() if len(log_ratio) else none}
