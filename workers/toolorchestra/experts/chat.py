"""The chat protocol between an episode and its experts: request, reply, and the interface of an expert client."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Protocol

from toolorchestra.experts.usage import Usage
from toolorchestra.tasks.task import Task
from toolorchestra.tools.view import Price

Message = Mapping[str, Any]
"""A message in OpenAI's form: `{"role": …, "content": …}`."""

Reserve = Callable[[Decimal], bool]
"""Reserves this many more dollars for another attempt of a call. Returns False if the budget has no room."""


@dataclass(frozen=True)
class ChatRequest:
    """Messages and tool schemas in OpenAI's format. `max_output_tokens` None means the pool's own limit."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    max_output_tokens: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Sampling parameters that override the pool's, named as in the pool's YAML (`temperature`, `topP`)."""

    @property
    def size_bytes(self) -> int:
        """Size of all text in UTF-8 bytes. No byte-level tokenizer makes more tokens than bytes."""
        text = [json.dumps(m, ensure_ascii=False) for m in (*self.messages, *self.tools)]
        return sum(len(part.encode("utf-8", "surrogatepass")) for part in text)


@dataclass(frozen=True)
class ToolCall:
    """A tool call by an expert. `arguments` is the JSON text as the model wrote it; it may be malformed."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ChatReply:
    """One completion. `text` may be empty only where `tool_calls` is not."""

    text: str
    usage: Usage
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str = "stop"
    model: str = ""
    usage_estimated: bool = False
    """True if the endpoint reported no credible token counts, so they were estimated from the text's length."""


class Experts(Protocol):
    """The interface to the experts. The HTTP client, the cassettes and the fakes of tests implement it."""

    async def ask(
        self,
        *,
        pool: str,
        request: ChatRequest,
        price: Price,
        task: Task | None = None,
        reserve: Reserve | None = None,
    ) -> ChatReply:
        """Send one request to a pool.

        `price` is the instance's price, for the nominal dollars. `task` is sent to simulators only. The caller has
        reserved `worst_case_usd` for the call. After an attempt that may have been paid, another attempt needs the
        same amount again from `reserve`. It is not made if `reserve` returns False or is None.

        Raises:
            ExpertUnavailable: infrastructure failed; defer the episode.
            ExpertRefused: the expert refused; the policy sees this as an observation.
            UnknownPool: there is no such pool here (`worst_case_usd` raises it too).
        """

    def worst_case_usd(self, *, pool: str, request: ChatRequest) -> Decimal:
        """Return the most that one attempt can cost. Reserve it before `ask`; settle `usage.actual_usd` afterwards."""

    async def close(self) -> None: ...
