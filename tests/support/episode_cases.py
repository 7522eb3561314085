"""An expert that is out, one that refuses, and limits with changes."""

from __future__ import annotations

from support.episode_world import LIMITS
from toolorchestra.experts.errors import ExpertRefused, ExpertUnavailable, Reason
from toolorchestra.rollout.order import EpisodeLimits

DOWN = ExpertUnavailable(pool="pool-cheap", reason=Reason.SERVER_ERROR, detail="500 five times")
TOO_LONG = ExpertRefused(pool="pool-cheap", reason=Reason.INPUT_TOO_LONG, detail="input of 9000 tokens")


def limits(**changes: object) -> EpisodeLimits:
    return LIMITS.model_copy(update=changes)
