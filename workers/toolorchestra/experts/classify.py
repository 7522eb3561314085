"""What one HTTP exchange with an expert amounts to: served, refused, or failed, and whether it is safe to try again.

Safe to retry is what was certainly not served, so that nothing is paid twice: no connection, no byte of reply, 408,
409, 425, 429 and 5xx but 504. A time-out, a reply cut off or one that cannot be read may have been billed: it is not
retried, and counts as spent at its worst case.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import aiohttp
from pydantic import BaseModel, Field, ValidationError

from toolorchestra.experts.chat import ToolCall
from toolorchestra.experts.errors import Reason

_DETAIL = 300
"""Characters kept of what an endpoint says about a failure."""

_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 529})
_OURS = frozenset({401, 402, 403, 404, 405, 407})
_OUR_CODES = frozenset(
    {"unsupported_parameter", "unsupported_value", "unknown_parameter", "model_not_found", "invalid_model"}
)
"""Error codes of a 400 that name a pool configured wrongly; every other 400 is about the request's content."""


@dataclass(frozen=True)
class Served:
    """A proper completion."""

    text: str
    tool_calls: tuple[ToolCall, ...]
    finish_reason: str
    model: str
    tokens_in: int | None
    tokens_out: int | None
    tokens_cached: int


@dataclass(frozen=True)
class Refused:
    """The expert will not; `served` where a completion said so and was paid."""

    reason: Reason
    detail: str
    served: Served | None = None


@dataclass(frozen=True)
class Failed:
    """Infrastructure. `maybe_paid`: the endpoint may bill for it."""

    reason: Reason
    detail: str
    retry: bool = False
    retry_after: float | None = None
    maybe_paid: bool = False


class _Function(BaseModel):
    name: str
    arguments: str = "{}"


class _Call(BaseModel):
    id: str | None = None
    function: _Function


class _Part(BaseModel):
    type: str = "text"
    text: str | None = None


class _Message(BaseModel):
    content: str | list[_Part] | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Cached(BaseModel):
    cached_tokens: int | None = Field(default=None, ge=0)


class _Tokens(BaseModel):
    prompt_tokens: int | None = Field(default=None, ge=0)
    completion_tokens: int | None = Field(default=None, ge=0)
    prompt_tokens_details: _Cached | None = None


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    model: str | None = None
    usage: _Tokens | None = None


def classify_reply(*, status: int, retry_after: str | None, body: bytes, now: datetime) -> Served | Refused | Failed:
    """Judge a reply that was read to its end. `retry_after` is the header; `now` resolves one that is a date."""
    if status == 200:
        return _classify_completion(body)
    code, message = _error_of(body)
    detail = _clip(f"HTTP {status}: {message}")
    wait = parse_retry_after(retry_after, now=now)
    if status == 429 and code == "insufficient_quota":
        return Failed(Reason.MISCONFIGURED, detail)
    if status == 429:
        return Failed(Reason.THROTTLED, detail, retry=True, retry_after=wait)
    if status == 504:
        return Failed(Reason.TIMEOUT, detail, maybe_paid=True)
    if status in _RETRIED or status >= 500:
        return Failed(Reason.SERVER_ERROR, detail, retry=status != 501, retry_after=wait)
    if status in _OURS or status < 400 or code in _OUR_CODES:
        return Failed(Reason.MISCONFIGURED, detail)
    if status == 413 or code == "context_length_exceeded" or "context length" in message:
        return Refused(Reason.INPUT_TOO_LONG, _clip(message))
    if code is not None and "content" in code:
        return Refused(Reason.CONTENT_FILTER, _clip(message))
    return Refused(Reason.BAD_REQUEST, _clip(message))


def classify_exception(error: Exception) -> Failed:
    """Judge an exchange that raised before the reply's headers were read."""
    detail = _clip(str(error) or type(error).__name__)
    match error:
        case aiohttp.ConnectionTimeoutError():
            return Failed(Reason.CONNECTION, detail, retry=True)
        case TimeoutError():
            return Failed(Reason.TIMEOUT, "no reply in time", maybe_paid=True)
        case aiohttp.ClientSSLError() | aiohttp.InvalidURL():
            return Failed(Reason.MISCONFIGURED, detail)
        case aiohttp.ClientOSError() | aiohttp.ServerDisconnectedError() | ConnectionError():
            return Failed(Reason.CONNECTION, detail, retry=True)
        case _:
            return Failed(Reason.GARBAGE, detail, maybe_paid=True)


def parse_retry_after(header: str | None, *, now: datetime) -> float | None:
    """Seconds to wait that a `Retry-After` header asks for (RFC 9110: seconds or a date); None where unreadable."""
    if header is None:
        return None
    text = header.strip()
    if text.replace(".", "", 1).isdecimal() and text.isascii():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds())


def _classify_completion(body: bytes) -> Served | Refused | Failed:
    try:
        completion = _Completion.model_validate_json(body)
    except ValidationError:
        what = "an empty body" if not body.strip() else f"no chat completion: {body[:80]!r}"
        return Failed(Reason.GARBAGE, f"HTTP 200 with {what}", maybe_paid=True)
    served = _served(completion)
    message, finish = completion.choices[0].message, served.finish_reason
    if finish == "content_filter":
        return Refused(Reason.CONTENT_FILTER, "stopped by the content filter", served)
    if message.refusal:
        return Refused(Reason.DECLINED, _clip(message.refusal), served)
    if not served.text.strip() and not served.tool_calls:
        return Refused(Reason.EMPTY, f"an empty completion, finish reason {finish}", served)
    return served


def _served(completion: _Completion) -> Served:
    choice, usage = completion.choices[0], completion.usage or _Tokens()
    content = choice.message.content
    text = content if isinstance(content, str) else "".join(part.text or "" for part in content or ())
    calls = enumerate(choice.message.tool_calls or ())
    cached = usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else None
    return Served(
        text=text,
        tool_calls=tuple(ToolCall(c.id or f"call-{n}", c.function.name, c.function.arguments) for n, c in calls),
        finish_reason=choice.finish_reason or "stop",
        model=completion.model or "",
        tokens_in=usage.prompt_tokens,
        tokens_out=usage.completion_tokens,
        tokens_cached=cached or 0,
    )


def _error_of(body: bytes) -> tuple[str | None, str]:
    """(code, message) of an OpenAI-style error body, or of whatever came instead."""
    try:
        fields = json.loads(body)
    except ValueError:
        return None, body[:_DETAIL].decode("utf-8", "replace").strip() or "no body"
    error = fields.get("error", fields) if isinstance(fields, dict) else fields
    if not isinstance(error, dict):
        return None, str(error)
    code = error.get("code") or error.get("type")
    return (code if isinstance(code, str) else None), str(error.get("message", error))


def _clip(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _DETAIL else text[: _DETAIL - 1] + "…"
