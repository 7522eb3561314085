"""Cassettes: record the answers of experts, and replay them without the experts.

Both classes implement the `Experts` protocol. A call is found by its content (pool, messages, tools, limit,
parameters). Several recordings of the same content are replayed in the recorded order; the last one repeats. Nominal
dollars are computed again on replay, because the price may differ.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter, defaultdict
from decimal import Decimal
from pathlib import Path
from typing import Any

from toolorchestra.experts.chat import ChatReply, ChatRequest, Experts, Reserve, ToolCall
from toolorchestra.experts.errors import CallError, ExpertError, ExpertRefused, ExpertUnavailable, Reason
from toolorchestra.experts.usage import Usage
from toolorchestra.tasks.task import Task
from toolorchestra.tools.view import Price


class CassetteError(ExpertError):
    """The cassette cannot be read, or does not contain the call."""


def call_key(pool: str, request: ChatRequest) -> str:
    """Return a digest of everything in a call that decides its answer."""
    content = [
        pool,
        [dict(m) for m in request.messages],
        [dict(t) for t in request.tools],
        request.max_output_tokens,
        dict(request.parameters),
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


class RecordingExperts:
    """Forwards calls and appends each outcome to a JSON Lines file, refusals and outages included."""

    def __init__(self, inner: Experts, path: Path) -> None:
        self._inner = inner
        self._file = path.open("a", encoding="utf-8")

    async def ask(
        self,
        *,
        pool: str,
        request: ChatRequest,
        price: Price,
        task: Task | None = None,
        reserve: Reserve | None = None,
    ) -> ChatReply:
        entry: dict[str, Any] = {"key": call_key(pool, request), "pool": pool}
        try:
            reply = await self._inner.ask(pool=pool, request=request, price=price, task=task, reserve=reserve)
        except CallError as error:
            retry_after = error.retry_after if isinstance(error, ExpertUnavailable) else None
            fields = {"reason": error.reason, "detail": error.detail, "retry_after": retry_after}
            self._write({**entry, "error": type(error).__name__, **fields, "usage": _usage(error.usage)})
            raise
        self._write({**entry, "reply": {**dataclasses.asdict(reply), "usage": _usage(reply.usage)}})
        return reply

    def worst_case_usd(self, *, pool: str, request: ChatRequest) -> Decimal:
        return self._inner.worst_case_usd(pool=pool, request=request)

    async def close(self) -> None:
        self._file.close()
        await self._inner.close()

    def _write(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")
        self._file.flush()


class ReplayedExperts:
    """Answers from a recorded file only. Nothing is spent: `actual_usd` and the worst case are 0.

    Raises:
        CassetteError: the file cannot be read (constructor), or the call was not recorded (`ask`).
    """

    def __init__(self, path: Path) -> None:
        self._entries: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._played: Counter[str] = Counter()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            try:
                entry = json.loads(line)
                self._entries[entry["key"]].append(entry)
            except (ValueError, KeyError, TypeError) as error:
                raise CassetteError(f"{path}:{number}: not a recorded call: {error!r}") from error

    async def ask(
        self,
        *,
        pool: str,
        request: ChatRequest,
        price: Price,
        task: Task | None = None,
        reserve: Reserve | None = None,
    ) -> ChatReply:
        key = call_key(pool, request)
        takes = self._entries.get(key)
        if not takes:
            raise CassetteError(f"the cassette holds no call to {pool} with this content (key {key[:12]})")
        entry = takes[min(self._played[key], len(takes) - 1)]
        self._played[key] += 1
        return _played(entry, price)

    def worst_case_usd(self, *, pool: str, request: ChatRequest) -> Decimal:
        return Decimal(0)

    async def close(self) -> None:
        """Do nothing: no file or connection is open."""


def _usage(usage: Usage) -> dict[str, Any]:
    fields = dataclasses.asdict(usage)
    return {k: str(v) if isinstance(v, Decimal) else v for k, v in fields.items()}


def _played(entry: dict[str, Any], price: Price) -> ChatReply:
    """Return the recorded reply at this instance's price, or raise the recorded error."""
    error = entry.get("error")
    recorded = entry["usage"] if error else entry["reply"]["usage"]
    tokens_in, tokens_out = recorded["tokens_in"], recorded["tokens_out"]
    nominal = price.of(tokens_in=tokens_in, tokens_out=tokens_out) if tokens_in or tokens_out else Decimal(0)
    usage = Usage(**{**recorded, "nominal_usd": nominal, "actual_usd": Decimal(0), "wasted_usd": Decimal(0)})
    pool = entry["pool"]
    if error == ExpertRefused.__name__:
        raise ExpertRefused(pool=pool, reason=Reason(entry["reason"]), detail=entry["detail"], usage=usage)
    if error:
        raise ExpertUnavailable(
            pool=pool,
            reason=Reason(entry["reason"]),
            detail=entry["detail"],
            usage=usage,
            retry_after=entry["retry_after"],
        )
    reply = entry["reply"]
    calls = tuple(ToolCall(**call) for call in reply["tool_calls"])
    return ChatReply(**{**reply, "usage": usage, "tool_calls": calls})
