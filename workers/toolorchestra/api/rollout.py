"""`spec.rollout`: how episodes are run.

`rollout.{workers, concurrency_per_worker, max_turns, max_prompt_tokens, max_response_tokens,
episode_timeout_seconds, episode_budget: {max_usd, max_service_seconds}, resources, pod_template}`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from toolorchestra.api.base import PARENT, Model, Resources
from toolorchestra.api.rules import NEW_TRAINING, immutable, ruled
from toolorchestra.api.scalars import USD, Count, Opaque, Replicas, Seconds


class EpisodeBudget(Model):
    """Hard limits of one episode, checked before each call; absent: none."""

    max_usd: USD | None = None
    """Most US dollars that one episode may actually pay, such as "2.00"."""
    max_service_seconds: Seconds | None = None
    """Most seconds of generation and tools in one episode, queueing excluded."""


class Rollout(Model):
    """How episodes are run."""

    model_config = ruled(
        immutable(
            "maxTurns",
            "maxPromptTokens",
            "maxResponseTokens",
            "episodeTimeoutSeconds",
            "episodeBudget",
            why=NEW_TRAINING,
        )
    )

    workers: Replicas = 2
    """Number of pods (on one machine: processes) that run episodes; they need neither GPU nor torch."""
    concurrency_per_worker: Annotated[Count, Field(le=4096)] = 32
    """Episodes that one worker runs at the same time. All together: this times workers."""
    max_turns: Annotated[Count, Field(le=1000)] = 50
    """Generations of the policy after which an episode ends with outcome 0."""
    max_prompt_tokens: Count = 24000
    """Most tokens of one prompt; with maxResponseTokens at most the model's context."""
    max_response_tokens: Count = 8000
    """Most tokens that the policy writes in one turn."""
    episode_timeout_seconds: Seconds = 1800
    """Seconds of wall time after which an episode is aborted as an infrastructure failure."""
    episode_budget: EpisodeBudget = Field(default_factory=EpisodeBudget, json_schema_extra=PARENT)
    """Limits of one episode: US dollars, service seconds."""
    resources: Resources | None = None
    """Resources of one worker, such as {limits: {memory: 2Gi}}; what is absent is taken from the chart."""
    pod_template: Opaque | None = None
    """Overlay on the workers' pods: tolerations, nodeSelector, …; docs/podtemplate.md lists the fields."""
