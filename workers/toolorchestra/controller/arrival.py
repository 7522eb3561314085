"""What arrives from the workers, read once: a Result for the ledger and a Trace for everyone else."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from toolorchestra.controller.assemble import TraceRefused, check_logprobs, check_sampling, version_span
from toolorchestra.ledger.journalled import Result
from toolorchestra.rollout.identity import Dispatch
from toolorchestra.rollout.trace import Ending, Trace

UNDECODABLE = "undecodable"
"""Reason of a result that does not read: its episode is sent again, and its bill counts as the worst case."""


@dataclass(frozen=True)
class Undecodable:
    """A message that is no result of this training's workers, of this release. `raw`: its bytes, as they came."""

    id: str
    why: str
    raw: bytes


@dataclass(frozen=True)
class Arrival:
    """One message: `trace` is None for a dead letter that carries none; `body` is the trace as the codec wrote it."""

    dispatch: Dispatch
    trace: Trace | None
    body: bytes
    deferred_for: str | None = None
    reason: str = ""
    undecodable: bool = False
    """Something came, and it does not read; `reason` says why. `trace` is None, `body` empty."""

    untouched: bool = False
    """A worker gave the order back before it spent anything."""
    abandoned: bool = False
    """A worker vanished with the order, and nobody will tell what it spent."""
    unread: bool = False
    """A worker could not read the order: a failure that cost nothing."""

    @property
    def scored(self) -> bool:
        return self.trace is not None and self.trace.components.outcome is not None

    def result(self) -> Result:
        """As the ledger wants it. A trace that cannot be trained on counts as an infrastructure failure."""
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
    """ValueError for a trace that reads and yet cannot be the result under this id, or that the ledger cannot hold."""
    if trace.issue != id_:
        raise ValueError(f"the trace of another issue, {trace.issue[:200]!r}")
    if trace.components.actual_usd < 0:
        raise ValueError(f"a bill of ${trace.components.actual_usd}")
    version_span(trace)
