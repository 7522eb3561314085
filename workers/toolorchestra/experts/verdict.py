"""The verdict on one attempt at an expert: served, refused or failed."""

from __future__ import annotations

from dataclasses import dataclass

from toolorchestra.experts.chat import ToolCall
from toolorchestra.experts.errors import Reason


@dataclass(frozen=True)
class Served:
    """A completion. Token counts are None if the endpoint did not report them credibly."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    model: str
    tokens_in: int | None
    tokens_out: int | None
    tokens_cached: int
    written_bytes: int
    """UTF-8 bytes of everything that the model visibly wrote, including thinking and tool calls."""


@dataclass(frozen=True)
class Refused:
    """The expert refused. `served` is set if the refusal was a completion, which was paid."""

    reason: Reason
    detail: str
    served: Served | None = None


@dataclass(frozen=True)
class Failed:
    """Infrastructure failed. `maybe_paid`: the request may have reached the model, so the endpoint may bill it.

    `retry`: another attempt may succeed. After a failure that may have been paid, it needs its own reservation.
    `served`: the incomplete completion that arrived; if it reports tokens, they give its cost.
    """

    reason: Reason
    detail: str
    retry: bool = False
    retry_after: float | None = None
    maybe_paid: bool = False
    served: Served | None = None


Verdict = Served | Refused | Failed
