"""What one attempt at an expert amounts to: it was served, it was refused, or it failed."""

from __future__ import annotations

from dataclasses import dataclass

from toolorchestra.experts.chat import ToolCall
from toolorchestra.experts.errors import Reason


@dataclass(frozen=True)
class Served:
    """A completion. Tokens are None where the endpoint did not report them, or not credibly."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    model: str
    tokens_in: int | None
    tokens_out: int | None
    tokens_cached: int
    written_bytes: int
    """UTF-8 bytes of all that the model is seen to have written, thinking and tool calls included."""


@dataclass(frozen=True)
class Refused:
    """The expert will not; `served` where a completion said so and was paid."""

    reason: Reason
    detail: str
    served: Served | None = None


@dataclass(frozen=True)
class Failed:
    """Infrastructure. `maybe_paid`: it may have reached the model, so that the endpoint may bill for it.

    `retry`: another attempt may pass; one after a failure that may have been paid needs a reservation of its own.
    `served`: the broken completion that came, which says what it cost where it reports its tokens.
    """

    reason: Reason
    detail: str
    retry: bool = False
    retry_after: float | None = None
    maybe_paid: bool = False
    served: Served | None = None


Verdict = Served | Refused | Failed
