"""Reads the chat completion of any provider. Pure: a field that is not understood is ignored; nothing is raised.

Only text is the answer. Parts of type `thinking`, `reasoning` and similar were written and paid, but are no answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from toolorchestra.experts.chat import ToolCall
from toolorchestra.experts.lenient_json import sound
from toolorchestra.experts.reported import read_usage
from toolorchestra.experts.verdict import Served

_TEXT_PARTS = frozenset({"text", "output_text"})
_THINKING = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message that hold the model's thinking, if it is not in parts of `content`."""

_BROKEN = re.compile(r"error|malformed|unexpected|abort|cancel|fail|insufficient|time_?out|network|interrupt")
_FILTERED = re.compile(
    r"content_filter|filtered|safety|recitation|blocklist|prohibited|spii|sensitive|moderation|guardrail|armor|refus"
)
_DONE = re.compile(r"(stop|end|eos|eot|complete|done|finish|length|max|model_(length|context)|tool|function)")


def finish_of(word: str) -> Literal["done", "filtered", "broken"]:
    """Return what a finish reason means.

    Providers have their own words for a generation that failed (`error`, `abort`, `insufficient_system_resource`,
    `function_call_filter: MALFORMED_FUNCTION_CALL`, …). So only known words count as a normal end.
    """
    lowered = word.strip().lower()
    if _BROKEN.search(lowered):
        return "broken"
    if _FILTERED.search(lowered):
        return "filtered"
    return "done" if _DONE.match(lowered) else "broken"


def error_in(fields: Any) -> Any:
    """Return the error inside a body of status 200, at its top level or in its choice; None if there is none."""
    if not isinstance(fields, Mapping):
        return None
    if fields.get("error"):
        return fields["error"]
    if fields.get("object") == "error":
        return fields
    return _choice(fields).get("error") or None


def refusal_in(fields: Any) -> str:
    """Return the refusal that the model wrote in the `refusal` field; empty if there is none."""
    refusal = _mapping(_choice(fields).get("message")).get("refusal")
    return sound(refusal) if isinstance(refusal, str) else ""


def served_in(fields: Any) -> Served | None:
    """Return the completion in a body, or None."""
    choice = _choice(fields)
    message = choice.get("message")
    if not isinstance(message, Mapping):
        return None
    content = message.get("content")
    if not isinstance(content, str | list | Mapping | None):
        return None
    text = "".join(_texts(content))
    calls = tuple(_calls(message.get("tool_calls")))
    thought = sum(_size(message.get(name)) for name in _THINKING)
    said = _size(content) if not isinstance(content, str | None) else len(text.encode())
    written = said + thought + sum(len(call.name.encode()) + len(call.arguments.encode()) for call in calls)
    reported = read_usage(fields.get("usage"), written_bytes=written)
    finish, model = choice.get("finish_reason"), fields.get("model")
    return Served(
        text=text,
        tool_calls=calls,
        finish_reason=sound(finish) if isinstance(finish, str) and finish else "stop",
        model=sound(model) if isinstance(model, str) else "",
        tokens_in=reported.tokens_in,
        tokens_out=reported.tokens_out,
        tokens_cached=reported.cached,
        written_bytes=written,
    )


def _choice(fields: Any) -> Mapping[str, Any]:
    choices = _mapping(fields).get("choices")
    return _mapping(choices[0]) if isinstance(choices, list) and choices else {}


def _texts(content: Any) -> Iterator[str]:
    """Yield the texts of a message's content, which is a string or a list of parts."""
    if isinstance(content, str):
        yield sound(content)
        return
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, str):
            yield sound(part)
        elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
            kind = part.get("type", "text")
            if isinstance(kind, str) and kind in _TEXT_PARTS:
                yield sound(part["text"])


def _calls(calls: Any) -> Iterator[ToolCall]:
    for number, call in enumerate(calls if isinstance(calls, list) else ()):
        function = _mapping(_mapping(call).get("function"))
        name, arguments = function.get("name"), function.get("arguments")
        if isinstance(name, str) and name:
            if not isinstance(arguments, str):  # some servers send the object instead of its text
                arguments = json.dumps(arguments or {})
            given = call.get("id")
            yield ToolCall(given if isinstance(given, str) else f"call-{number}", sound(name), sound(arguments))


def _size(written: Any) -> int:
    """Return the UTF-8 bytes of all strings under a value: an upper bound, because part types are counted too."""
    size, rest = 0, [written]
    while rest:
        value = rest.pop()
        if isinstance(value, str):
            size += len(value.encode("utf-8", "surrogatepass"))
        elif isinstance(value, list):
            rest.extend(value)
        elif isinstance(value, Mapping):
            rest.extend(value.values())
    return size


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
