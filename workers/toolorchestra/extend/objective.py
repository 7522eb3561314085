"""For packages with an objective of their own. Imports torch, which the rest of `toolorchestra.extend` does not."""

from __future__ import annotations

from toolorchestra.trainer.batch import LossConfig
from toolorchestra.trainer.objectives.objective import (
    MAX_LOG_RATIO,
    LossInputs,
    LossOutputs,
    Objective,
    ObjectiveMaker,
)

__all__ = ["MAX_LOG_RATIO", "LossConfig", "LossInputs", "LossOutputs", "Objective", "ObjectiveMaker"]
