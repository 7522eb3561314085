"""A result from a worker, decoded once: a Result for the ledger and a Trace for everything else."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from toolorchestra.controller.assemble import TraceRefused, check_logprobs, check_sampling, version_span
from toolorchestra.ledger.journalled import Result
from toolorchestra.rollout.identity import Dispatch
from toolorchestra.rollout.trace import Ending, Trace

UNDECODABLE = "undecodable"
"""Reason of a result that cannot be decoded: its episode is sent again, and its cost counts as the worst case."""


@dataclass(frozen=True)
class Undecodable:
    """A message that cannot be decoded as a result of this release's workers. `raw`: its bytes as received."""

    id: str
    why: str
    raw: bytes


@dataclass(frozen=True)
class Arrival:
    """One message. `trace`: None where it has none (some dead letters); `body`: the trace in the codec's bytes."""

    dispatch: Dispatch
    trace: Trace | None
    body: bytes
    deferred_for: str | None = None
    reason: str = ""
    undecodable: bool = False
    """The message cannot be decoded; `reason` says why. `trace` is None, `body` is empty."""

    untouched: bool = False
    """A worker gave the order back before it spent anything."""
    abandoned: bool = False
    """A worker disappeared with the order, so its cost stays unknown."""
    unread: bool = False
    """A worker could not decode the order: a failure that cost nothing."""

    @property
    def scored(self) -> bool:
        return self.trace is not None and self.trace.components.outcome is not None

    def result(self) -> Result:
        """Return the Result for the ledger. A trace that cannot be trained on counts as an infrastructure failure."""
        trace = self.trace
        if trace is None:
            reason = UNDECODABLE if self.undecodable else self.reason or "worker_lost"
            if self.untouched:
                return Result(self.dispatch, scored=False, reason="untouched", usd=Decimal(0), untouched=True)
            if self.abandoned:
                reason = Ending.WORKER_LOST.value
            return Result(self.dispatch, scored=False, reason=reason, usd=Decimal(0) if self.unread else None)
        scored, reason, span = self.scored, trace.ending.value, version_span(trace)
        try:
            check_sampling(trace.sampling)
        except TraceRefused as refusal:
            scored, reason = False, str(refusal)
        try:
            check_logprobs(trace)
        except TraceRefused:
            scored, reason = False, Ending.ENGINE_LOST.value
        return Result(
            dispatch=self.dispatch,
            scored=scored and span is not None,
            reason=reason,
            usd=trace.components.actual_usd,
            span=span,
            deferred_for=self.deferred_for,
        )


def check_trace(trace: Trace, *, id_: str) -> None:
    """Check a decoded trace; ValueError where it belongs to another dispatch or the ledger cannot hold it."""
    if trace.issue != id_:
        raise ValueError(f"the trace belongs to another dispatch, {trace.issue[:200]!r}")
    if trace.components.actual_usd < 0:
        raise ValueError(f"the trace has a negative cost, ${trace.components.actual_usd}")
    version_span(trace)
