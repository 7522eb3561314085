"""Samples traces per group: all siblings are recorded or none, in every process and after every restart.

Invariant: the decision is a pure function of (training, group, ratio). Children follow their parent; a root without a
group (a trainer step) is always recorded, because there are few.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from opentelemetry.context import Context
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import Link, SpanKind, get_current_span
from opentelemetry.trace.span import TraceState
from opentelemetry.util.types import Attributes

from toolorchestra.telemetry import names


def sampled(*, training: str, group: int, ratio: float) -> bool:
    """Return whether the episodes of a group are recorded at `ratio` (0 to 1)."""
    digest = hashlib.sha256(f"{training}/{group}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < ratio * 2**64


class GroupSampler(Sampler):
    """Sampler of root spans. Wrap it into ParentBased for the other spans."""

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        given = attributes or {}
        training, group = given.get(names.TRAINING), given.get(names.GROUP)
        keep = not isinstance(group, int) or sampled(training=str(training), group=group, ratio=self._ratio)
        state = get_current_span(parent_context).get_span_context().trace_state
        return SamplingResult(
            Decision.RECORD_AND_SAMPLE if keep else Decision.DROP, attributes if keep else None, state
        )

    def get_description(self) -> str:
        return f"GroupSampler{{{self._ratio}}}"
