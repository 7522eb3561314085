"""The order: what the controller sends a worker for one dispatch of an episode. Self-contained: a worker needs no
YAML."""

from __future__ import annotations

from decimal import Decimal

from pydantic import BaseModel, ConfigDict

from toolorchestra.rollout.trace import Sampling
from toolorchestra.tasks.task import Task
from toolorchestra.tools.view import InstanceView

ORDER_SCHEMA = 1


class EpisodeLimits(BaseModel):
    """Hard limits of one episode. Budgets are checked before a call is paid."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_turns: int
    max_prompt_tokens: int
    max_response_tokens: int
    max_usd: Decimal | None = None
    """Actual dollars (rollout.episodeBudget.maxUSD)."""
    max_service_seconds: float | None = None
    timeout_seconds: float
    max_errors: int = 10
    max_parallel_calls: int = 6


class Order(BaseModel):
    """One dispatch of an episode, ready to run.

    `allowance_usd` is what the controller has reserved of the run's spend cap for this dispatch: the worker never
    spends more; None means that the run has no cap.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = ORDER_SCHEMA
    issue: str
    task: Task
    view: InstanceView
    limits: EpisodeLimits
    sampling: Sampling
    purpose: str = "train"
    system: str = "policy"
    """Who decides: `policy`, or a baseline (`always:<pool>`, `random`, `cheapest`, `cascade`)."""
    allowance_usd: Decimal | None = None
    version: str | None = None
    """Evaluation runs on this pinned policy version; None: whatever the engine serves."""
