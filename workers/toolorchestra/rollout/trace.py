"""The trace: the record of one episode, complete enough to score, report and train from it later.

Token ids are the wire format: the policy's input and output are stored as ids, never as text to be tokenised again.
"""

from __future__ import annotations

from decimal import Decimal
from enum import StrEnum
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from toolorchestra.experts.errors import Reason
from toolorchestra.tools.view import InstanceView

TRACE_SCHEMA = 1


class Ending(StrEnum):
    """How an episode ended: a closed list (episodes.md, "How it ends"). `treatment`: how the reward treats it."""

    ANSWERED = "answered"
    TURN_LIMIT = "turn_limit"
    CONTEXT_LIMIT = "context_limit"
    EPISODE_BUDGET = "episode_budget"
    ERROR_LIMIT = "error_limit"
    UNPARSEABLE = "unparseable"
    EXPERT_UNAVAILABLE = "expert_unavailable"
    EXPERT_MISCONFIGURED = "expert_misconfigured"
    TOOL_FAILURE = "tool_failure"
    ENGINE_LOST = "engine_lost"
    NO_ENGINE = "no_engine"
    """The episode never began, because the training had no engine. The worker gives the order back without a trace."""
    WORKER_LOST = "worker_lost"
    GRADER_FAILURE = "grader_failure"
    SPEND_CAP = "spend_cap"
    CANCELLED = "cancelled"

    @property
    def treatment(self) -> Literal["scored", "zero", "unscored"]:
        """`scored` by the grader; `zero`: the policy's own fault; `unscored`: not its fault, so never trained on."""
        if self is Ending.ANSWERED:
            return "scored"
        return "zero" if self in _POLICY_FAULTS else "unscored"

    @property
    def deferred(self) -> bool:
        """Whether the episode waits for its expert: for the end of an outage, or for a person to correct the pool."""
        return self in (Ending.EXPERT_UNAVAILABLE, Ending.EXPERT_MISCONFIGURED)


_POLICY_FAULTS = frozenset(
    {Ending.TURN_LIMIT, Ending.CONTEXT_LIMIT, Ending.EPISODE_BUDGET, Ending.ERROR_LIMIT, Ending.UNPARSEABLE}
)


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Segment(_Record):
    """Consecutive tokens of one origin.

    `trained` is the loss mask. `logprobs` is as long as `token_ids` if the policy sampled them, else empty. `version`
    (text of a PolicyVersion) names the weights that sampled the tokens.
    """

    token_ids: tuple[int, ...]
    trained: bool = False
    logprobs: tuple[float, ...] = ()
    version: str | None = None


class Sample(_Record):
    """One training sequence: segments in order. `well_formed`: the output had the required format."""

    segments: tuple[Segment, ...]
    well_formed: bool = True


class Meter(_Record):
    """What one paid call used. Nominal dollars follow the instance's price book; actual dollars were really spent."""

    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    nominal_usd: Decimal = Decimal(0)
    actual_usd: Decimal = Decimal(0)
    """Real dollars; if they are unknown, the most that they can be."""
    wasted_usd: Decimal = Decimal(0)
    """The part of `actual_usd` that failed attempts may have cost; never the policy's fault."""
    service_seconds: float = 0.0
    """Time of the service itself, without queueing, engine pauses, back-off and redelivery."""
    wall_seconds: float = 0.0
    simulated: bool = False


class Call(_Record):
    """One tool call. `name` is the pool or function (never the alias); `status` says who caused a failure."""

    tool: str
    """Function name in the policy's call: `answer`, `ask`, …"""
    name: str
    alias: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    status: Literal["ok", "refused", "rejected", "unavailable", "cancelled"]
    """`refused` by the expert; `rejected` by the worker (unknown alias, budget); `unavailable`: infrastructure."""
    reason: Reason | None = None
    """Why an expert gave no reply, if it refused or was unavailable. `bad_request`: HTTP 400 with unknown words; a pool
    that answers with nothing else is misconfigured (`experts/pool_health.py`)."""
    observation: str = ""
    meter: Meter = Meter()


class Turn(_Record):
    """One generation of the policy, and what its tool calls returned."""

    text: str
    rejection: str | None = None
    """Why the parser refused the output; None if it parsed."""
    calls: tuple[Call, ...] = ()
    meter: Meter = Meter()
    """The policy's own generation, with its nominal price."""


class Components(_Record):
    """The raw measured quantities of an episode, with units in the names. Not normalised, not weighted."""

    outcome: float | None
    """1: right. 0: wrong, or the policy's fault. None: never scored."""
    cost_usd: Decimal
    """Nominal dollars of all tokens of all models, including the orchestrator's and the final answer's."""
    actual_usd: Decimal
    service_seconds: float
    wall_seconds: float
    calls: dict[str, int] = Field(default_factory=dict)
    """Calls per pool or function name, over all turns."""


class Sampling(_Record):
    """Sampling parameters of the policy. The trainer refuses a trace unless temperature and top-p are 1."""

    temperature: float = 1.0
    top_p: float = 1.0
    seed: int = 0
    """Seed of the baseline `random`. The policy's engine gets no seed (policy/engine.py)."""


class Trace(_Record):
    """The record of one dispatch of an episode."""

    schema_version: int = TRACE_SCHEMA
    issue: str
    """Text of the Dispatch."""
    task_id: str
    source: str
    topic: str
    purpose: str
    """`train`, or the name of its evaluation."""
    system: str = "policy"
    """The system that decided: `policy`, or a baseline (`Order.system`)."""
    instruction: str = ""
    """The task's text, so that the trace can be read without its suite."""
    view: InstanceView
    sampling: Sampling
    samples: tuple[Sample, ...]
    turns: tuple[Turn, ...]
    ending: Ending
    detail: str = ""
    """For an ending without success: what happened, so that a person can act."""
    expert: str | None = None
    """The pool whose outage or wrong configuration ended the episode, if there was one."""
    answer: str | None = None
    components: Components
    forks: int = 0
    worker: str = ""
    trace_id: str | None = None
    """W3C trace id that joins this record with its spans."""
    started_at: float = 0.0
    """Unix seconds."""
