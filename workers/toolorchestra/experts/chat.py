"""The chat protocol between an episode and the experts: what is asked, what comes back, who can be asked."""

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
"""Sets that many more dollars aside for another attempt of a call; False where there are none left."""


@dataclass(frozen=True)
class ChatRequest:
    """Messages and tool schemas in OpenAI's form. `max_output_tokens` None: the pool's own limit."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    max_output_tokens: int | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Sampling parameters that override the pool's, named as in the pool's YAML (`temperature`, `topP`)."""

    @property
    def size_bytes(self) -> int:
        """UTF-8 bytes of all text: no byte-level tokenizer makes more tokens of it than that."""
        text = [json.dumps(m, ensure_ascii=False) for m in (*self.messages, *self.tools)]
        return sum(len(part.encode("utf-8", "surrogatepass")) for part in text)


@dataclass(frozen=True)
class ToolCall:
    """A tool call of an expert; `arguments` is the JSON text as the model wrote it, perhaps malformed."""

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
    """The endpoint reported no tokens that can be believed; they were estimated from the text's length."""


class Experts(Protocol):
    """Whoever answers for the experts: the HTTP client, a cassette, a test's fake."""

    async def ask(
        self,
        *,
        pool: str,
        request: ChatRequest,
        price: Price,
        task: Task | None = None,
        reserve: Reserve | None = None,
    ) -> ChatReply:
        """One call to a pool. `price` is the instance's, for the nominal ledger; `task` reaches simulators only.

        `worst_case_usd` was reserved for it. An attempt after one that may have been paid asks `reserve` for as much
        again, and is not made where that says no, or is None.

        Raises:
            ExpertUnavailable: infrastructure; defer the episode.
            ExpertRefused: an observation for the policy.
            UnknownPool: there is no such pool here (`worst_case_usd` says so too).
        """

    def worst_case_usd(self, *, pool: str, request: ChatRequest) -> Decimal:
        """The most that one attempt can really cost: reserve it before `ask`, settle on `usage.actual_usd` after."""

    async def close(self) -> None: ...
