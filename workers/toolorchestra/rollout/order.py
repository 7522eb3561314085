"""The order: the message from the controller to a worker for one dispatch. It is complete: a worker needs no YAML."""

from __future__ import annotations

from decimal import Decimal

from pydantic import BaseModel, ConfigDict

from toolorchestra.rollout.trace import Sampling
from toolorchestra.tasks.task import Task
from toolorchestra.tools.view import InstanceView

ORDER_SCHEMA = 1


class EpisodeLimits(BaseModel):
    """Hard limits of one episode. Budgets are checked before a call is paid for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_turns: int
    max_prompt_tokens: int
    max_response_tokens: int
    max_usd: Decimal | None = None
    """Actual dollars (`rollout.episodeBudget.maxUSD`)."""
    max_service_seconds: float | None = None
    timeout_seconds: float
    max_errors: int = 10
    max_parallel_calls: int = 6


class Order(BaseModel):
    """One dispatch of an episode, ready to run.

    `allowance_usd` is the part of the run's spend cap that the controller has reserved for this dispatch. The worker
    never spends more. None: the run has no cap.
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
    """The system that decides: `policy`, or a baseline (`always:<pool>`, `random`, `cheapest`, `cascade`)."""
    allowance_usd: Decimal | None = None
    version: str | None = None
    """The pinned policy version of an evaluation. None: the version that the engine serves."""
