"""What the episode asks of its mode."""

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
    """One episode's prompts and samples. Each turn the episode calls `prompt`, `said`, then one of the last three."""

    @property
    def tools(self) -> Sequence[ToolSchema]: ...

    @property
    def rules(self) -> Rules: ...

    @property
    def samples(self) -> tuple[Sample, ...]: ...

    @property
    def forks(self) -> int: ...

    def prompt(self) -> Sequence[int] | None:
        """Ids of the next prompt; None where it does not fit in the limit."""
        ...

    def said(self, generation: Generation, *, text: str, parsed: Parsed) -> None:
        """Store the output as part of a sample."""
        ...

    def question(self, call: ToolCall) -> ChatRequest:
        """What an expert is asked by this call."""
        ...

    def refuse(self, parsed: Parsed) -> None:
        """The output was rejected: what the next prompt says about it."""
        ...

    def conclude(self, message: str) -> End:
        """The output was a message without a call."""
        ...

    def observe(self, calls: Sequence[Call]) -> End | None:
        """The calls' results; the end where they end the episode."""
        ...


def output_segments(generation: Generation) -> tuple[Segment, ...]:
    """The sampled tokens as trained segments, one per policy version."""
    return tuple(
        Segment(
            token_ids=generation.token_ids[span.start : span.end],
            trained=True,
            logprobs=generation.logprobs[span.start : span.end],
            version=span.version,
        )
        for span in generation.spans
    )
