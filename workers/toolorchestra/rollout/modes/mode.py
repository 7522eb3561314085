"""The interface between an episode and its mode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from toolorchestra.experts.chat import ChatRequest
from toolorchestra.policy.engine import Generation
from toolorchestra.policy.parser import Parsed, Rules, ToolCall
from toolorchestra.policy.prompts import ToolSchema
from toolorchestra.rollout.end import End
from toolorchestra.rollout.trace import Call, Sample, Segment


class Mode(Protocol):
    """One episode's prompts and samples. Each turn calls `prompt`, `said`, then one of the last three methods."""

    @property
    def tools(self) -> Sequence[ToolSchema]: ...

    @property
    def rules(self) -> Rules: ...

    @property
    def samples(self) -> tuple[Sample, ...]: ...

    @property
    def forks(self) -> int: ...

    def prompt(self) -> Sequence[int] | None:
        """Return the ids of the next prompt, or None if it exceeds the limit."""
        ...

    def said(self, generation: Generation, *, text: str, parsed: Parsed) -> None:
        """Store the policy's output as part of a sample."""
        ...

    def question(self, call: ToolCall) -> ChatRequest:
        """Return the request to the expert for this call."""
        ...

    def refuse(self, parsed: Parsed) -> None:
        """Record a rejected output, so that the next prompt explains the rejection."""
        ...

    def conclude(self, message: str) -> End:
        """Return the end of the episode after a message without a call."""
        ...

    def observe(self, calls: Sequence[Call]) -> End | None:
        """Store the results of the calls. Return the end if they end the episode."""
        ...


def output_segments(generation: Generation) -> tuple[Segment, ...]:
    """Return the sampled tokens as trained segments, one per policy version."""
    return tuple(
        Segment(
            token_ids=generation.token_ids[span.start : span.end],
            trained=True,
            logprobs=generation.logprobs[span.start : span.end],
            version=span.version,
        )
        for span in generation.spans
    )
