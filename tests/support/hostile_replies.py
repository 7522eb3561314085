"""Replies that a provider, a gateway or a network may send, and an oracle of what they could be charged for.

The oracle knows nothing of the client: it reads the reply that was made, not the bytes, and has its own table.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from typing import Any, Literal

from hypothesis import strategies as st

Fault = Literal["none", "before_headers", "in_headers", "in_body", "in_chunks", "no_http", "stalls"]

FREE = {409, 425, 429, 501, 503, 505, 521, 523, 525, 526, 529}
"""Statuses that say that no model was reached, besides those of 300 to 499 but the next."""
GATEWAYS = {408, 418, 424, 499, 460}
TOKENS = 10_000_000

_odd_numbers: Any = st.sampled_from(
    [-1, 0, 50.5, 50.0, float("nan"), float("inf"), 10**9, 10**17, 10**30, "7", "", None, True, [], {}, [3], {"a": 1}]
)
_counts = st.one_of(st.integers(0, 5000), _odd_numbers)
_texts = st.one_of(
    st.text(max_size=40), st.sampled_from(["4", r"\boxed{4}", "\ud800", "x" * 5000, "\x1b[2J\x00", "<think>5", "", " "])
)
_odd = st.one_of(_odd_numbers, _texts, st.lists(_texts, max_size=2))


def _fields(**strategies: Any) -> st.SearchStrategy[dict[str, Any]]:
    """Objects that have some of these fields."""
    return st.fixed_dictionaries({}, optional=strategies)


_details = st.one_of(_odd, _fields(cached_tokens=_counts, reasoning_tokens=_counts))
_usages = st.one_of(
    st.fixed_dictionaries({"prompt_tokens": _counts, "completion_tokens": _counts, "total_tokens": _counts}),
    st.builds(
        lambda a, b, c: {"prompt_tokens": a, "completion_tokens": b, "total_tokens": a + b + c},
        st.integers(1, 3000),
        st.integers(0, 3000),
        st.integers(0, 3000),
    ),
    _fields(
        prompt_tokens=_counts,
        completion_tokens=_counts,
        total_tokens=_counts,
        input_tokens=_counts,
        output_tokens=_counts,
        prompt_tokens_details=_details,
        completion_tokens_details=_details,
    ),
    _odd,
)
_parts = st.one_of(
    _texts,
    _odd,
    _fields(type=st.sampled_from(["text", "reasoning", "thinking", "image_url", 7, None, ["text"]]), text=_texts),
)
_contents = st.one_of(_texts, st.lists(_parts, max_size=3), _odd)
_calls = st.one_of(
    _odd, st.lists(_fields(id=_odd, function=st.one_of(_odd, _fields(name=_odd, arguments=_odd))), max_size=2)
)
_finishes = st.one_of(
    st.sampled_from(
        ["stop", "length", "tool_calls", "error", "abort", "content_filter", "SAFETY", "MALFORMED_FUNCTION_CALL", None]
    ),
    _odd,
)
_messages = st.one_of(_odd, _fields(content=_contents, refusal=_odd, tool_calls=_calls, reasoning_content=_odd))
_errors = st.one_of(
    _odd,
    _fields(
        message=st.one_of(
            _odd,
            st.sampled_from(
                [
                    "API key not valid",
                    "maximum context length is 8 tokens",
                    "max_tokens is too large: 9",
                    "flagged by moderation",
                    "credit balance is too low",
                ]
            ),
        ),
        code=st.one_of(_odd, st.sampled_from([400, 401, 429, 502, "503", "invalid_content_type", 999, -1])),
        type=_odd,
        param=_odd,
        metadata=_odd,
    ),
)
_choices = st.one_of(_fields(message=_messages, finish_reason=_finishes, error=st.one_of(st.none(), _errors)), _odd)
_good_choice = st.fixed_dictionaries(
    {
        "message": st.fixed_dictionaries({"content": st.sampled_from(["4", "x" * 3000])}),
        "finish_reason": st.sampled_from(["stop", "length", "error", "content_filter"]),
    }
)
_answers = st.fixed_dictionaries({"choices": st.lists(_good_choice, min_size=1, max_size=1), "usage": _usages})
_completions = _fields(
    choices=st.one_of(st.lists(_choices, max_size=2), _odd), usage=_usages, model=_odd, error=_errors, object=_odd
)
_error_bodies = st.one_of(
    st.fixed_dictionaries({"error": _errors}), st.lists(st.fixed_dictionaries({"error": _errors}), max_size=2), _errors
)
_raw = st.one_of(
    st.binary(max_size=60),
    st.sampled_from(
        [
            b"",
            b"   ",
            b"[" * 200_000,
            b'{"a":' * 50_000,
            b"<html>502</html>",
            b'{"choices": [',
            b"1" * 5000,
            b"\xff\xfe[" * 9,
        ]
    ),
)
_retry_after = st.one_of(
    st.none(),
    st.text(alphabet=st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
    st.sampled_from(
        [
            "0",
            "1e400",
            "9" * 400,
            "-5",
            "nan",
            "Fri, 31 Dec 9999 23:59:59 -2359",
            "Sat, 01 Jan 0001 00:00:00 +2359",
            "Sun, 99 Nov 2026 10:00:30 GMT",
            "Sun, 22 Nov 99999999999 10:00:30 GMT",
        ]
    ),
)


@dataclass(frozen=True)
class Reply:
    """One hostile reply: what the server does each time it is asked."""

    fault: Fault
    status: int
    body: Any
    """A JSON value, or bytes."""
    retry_after: str | None
    packing: Literal["plain", "gzip", "lies", "chunked", "utf-16"]

    @property
    def payload(self) -> bytes:
        raw = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
        if self.packing == "gzip":
            return gzip.compress(raw, compresslevel=1)
        if self.packing == "utf-16" and not isinstance(self.body, bytes):
            return json.dumps(self.body).encode("utf-16")
        return raw

    @property
    def wire(self) -> bytes:
        """The bytes that are sent before the connection closes."""
        payload = self.payload
        head = f"HTTP/1.1 {self.status} Odd\r\nConnection: close\r\n"
        if self.retry_after is not None:
            head += f"Retry-After: {self.retry_after}\r\n"
        if self.packing in ("gzip", "lies"):
            head += "Content-Encoding: gzip\r\n"
        match self.fault:
            case "before_headers":
                return b""
            case "in_headers":
                return head[:-4].encode()
            case "no_http":
                return b"\x00\x01 nonsense\r\n\r\n" + payload[:200]
            case "in_chunks":
                return head.encode() + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % (len(payload) + 9) + payload
        if self.packing == "chunked" and self.fault == "none":
            chunk = b"%x\r\n%s\r\n" % (len(payload), payload) if payload else b""
            return head.encode() + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"0\r\n\r\n"
        length = len(payload) + (7 if self.fault in ("in_body", "stalls") else 0)
        return head.encode() + f"Content-Length: {length}\r\n\r\n".encode() + payload


replies = st.builds(
    Reply,
    fault=st.sampled_from(["none"] * 30 + ["before_headers", "in_headers", "in_body", "in_chunks", "no_http"]),
    status=st.one_of(
        st.just(200),
        st.sampled_from([200] * 24 + [400, 401, 403, 408, 413, 422, 429, 500, 502, 503, 504, 520, 524, 529]),
        st.integers(200, 599),
    ),
    body=st.sampled_from([_answers] * 6 + [_completions] * 2 + [_error_bodies, _raw]).flatmap(lambda each: each),
    retry_after=_retry_after,
    packing=st.sampled_from(["plain"] * 8 + ["gzip", "lies", "chunked", "utf-16"]),
)


@dataclass(frozen=True)
class Charge:
    """Tokens that a provider could charge one attempt for; None: nobody knows, so all that the request allowed."""

    tokens_in: int | None = 0
    tokens_out: int | None = 0


NOTHING, ANYTHING = Charge(), Charge(None, None)


def could_charge(reply: Reply) -> Charge:
    """The least that has to be counted for one attempt that got this reply."""
    if reply.fault in ("before_headers", "in_headers", "no_http"):
        return ANYTHING
    if reply.status in FREE or (300 <= reply.status < 500 and reply.status not in GATEWAYS and _known(reply.status)):
        return NOTHING
    if reply.status != 200 or reply.fault != "none" or reply.packing == "lies" or not isinstance(reply.body, dict):
        return ANYTHING
    return _of_completion(reply.body)


def _known(status: int) -> bool:
    """Statuses below 500 that are sent instead of an answer, never after one."""
    return status < 400 or status in {
        *(400, 401, 402, 403, 404, 405, 406, 407, 410, 411, 413, 414, 415, 421, 422, 426, 428, 431, 451)
    }


def _of_completion(body: dict[str, Any]) -> Charge:
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    error = body.get("error") or (body if body.get("object") == "error" else None) or choice.get("error")
    if error and not isinstance(choice.get("message"), dict):
        return Charge() if _refuses(error) else ANYTHING
    if not isinstance(choice.get("message"), dict):
        return ANYTHING
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    prompt = _sane(usage, "prompt_tokens", "input_tokens") or None
    outs = [_sane(usage, "completion_tokens", "output_tokens")]
    total, details = _sane(usage, "total_tokens"), usage.get("completion_tokens_details")
    if total is not None and prompt is not None:
        outs.append(total - prompt)
    if isinstance(details, dict):
        outs.append(_sane(details, "reasoning_tokens"))
    known = max((out for out in outs if out is not None), default=0)
    written = bool(choice["message"].get("content") or choice["message"].get("tool_calls"))
    return Charge(prompt, known or (None if written or prompt is None else 0))


def _refuses(error: Any) -> bool:
    """An error that says itself that nothing was begun; with any other the provider may have."""
    code = error.get("code") if isinstance(error, dict) else None
    return code in (400, 401)


def _sane(fields: dict[str, Any], *names: str) -> int | None:
    for name in names:
        value = fields.get(name)
        if type(value) is float and value == value and abs(value) < 1e15 and value == int(value):
            value = int(value)
        if type(value) is int and 0 <= value <= TOKENS:
            return value
    return None
