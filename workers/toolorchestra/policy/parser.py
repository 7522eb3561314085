"""Parses tool calls in the policy's text: Hermes format (`<tool_call>{"name": …, "arguments": {…}}</tool_call>`).

Invariants: `parse` never raises. Every refusal is one of `Rejection`. `parse(format_calls(calls))` returns the calls.
The parser is strict, because the policy learns to write whatever is accepted here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite
from typing import Any

OPEN, CLOSE = "<tool_call>", "</tool_call>"
THINK_OPEN, THINK_CLOSE = "<think>", "</think>"


class Rejection(StrEnum):
    """Why an output was refused. A closed list; the counts are per kind."""

    EMPTY = "empty"
    TRUNCATED = "truncated"
    """Cut at the length limit. The episode sets this, because the text alone does not show it."""
    UNCLOSED_THINK = "unclosed_think"
    UNCLOSED_CALL = "unclosed_call"
    STRAY_TAG = "stray_tag"
    TEXT_AFTER_CALL = "text_after_call"
    NOT_JSON = "not_json"
    NOT_A_CALL = "not_a_call"
    """JSON, but not an object with exactly `name` and `arguments`."""
    UNKNOWN_TOOL = "unknown_tool"
    MISSING_ARGUMENT = "missing_argument"
    UNKNOWN_ARGUMENT = "unknown_argument"
    WRONG_TYPE = "wrong_type"
    NOT_IN_ENUM = "not_in_enum"
    TOO_MANY_CALLS = "too_many_calls"
    DUPLICATE_CALL = "duplicate_call"
    """Two calls of one tool, where a turn allows one call per tool name."""
    NO_CALL = "no_call"
    """A message without a call, where a call was required."""


@dataclass(frozen=True)
class ToolCall:
    """One call as the policy wrote it."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Parsed:
    """The result of parsing. If `rejection` is set, `calls` is empty and `detail` tells the policy what was wrong."""

    thinking: str | None = None
    message: str = ""
    calls: tuple[ToolCall, ...] = ()
    rejection: Rejection | None = None
    detail: str = ""


@dataclass(frozen=True)
class Rules:
    """Requirements of a mode in addition to well-formed calls."""

    call_required: bool = False
    max_calls: int = 6
    one_per_tool: bool = False


class _Refused(Exception):
    def __init__(self, rejection: Rejection, detail: str) -> None:
        super().__init__(detail)
        self.rejection = rejection
        self.detail = detail


def format_calls(calls: Sequence[ToolCall]) -> str:
    """Return the calls as text, in the format that `parse` reads and Qwen3's template writes."""
    return "\n".join(
        f"{OPEN}\n{json.dumps({'name': c.name, 'arguments': c.arguments}, ensure_ascii=False)}\n{CLOSE}" for c in calls
    )


def parse(
    text: str, *, tools: Sequence[Mapping[str, Any]], rules: Rules | None = None, thinking_open: bool = False
) -> Parsed:
    """Parse one output of the policy. `thinking_open`: the prompt itself ended with `<think>`."""
    rules = rules or Rules()
    thinking: str | None = None
    message = ""
    try:
        thinking, rest = _split_thinking(text, thinking_open=thinking_open)
        message, calls = _split_calls(rest, limit=rules.max_calls)
        _check_rules(message, calls, rules=rules)
        schemas = {tool["function"]["name"]: tool["function"].get("parameters", {}) for tool in tools}
        for call in calls:
            _check_call(call, schemas)
    except _Refused as refused:
        return Parsed(thinking=thinking, message=message, rejection=refused.rejection, detail=refused.detail)
    return Parsed(thinking=thinking, message=message, calls=tuple(calls))


def _split_thinking(text: str, *, thinking_open: bool) -> tuple[str | None, str]:
    stripped = text.lstrip()
    if stripped.startswith(THINK_OPEN):
        stripped = stripped[len(THINK_OPEN) :]
    elif not thinking_open:
        return None, text
    thinking, closed, rest = stripped.partition(THINK_CLOSE)
    if not closed:
        raise _Refused(Rejection.UNCLOSED_THINK, f"{THINK_OPEN} was never closed")
    return thinking.strip(), rest


def _split_calls(text: str, *, limit: int) -> tuple[str, list[ToolCall]]:
    """Return the message before the first call, and the calls.

    The JSON decoder finds the end of each call, so arguments may contain tags.
    """
    message, opened, rest = text.partition(OPEN)
    message = message.strip()
    if CLOSE in message or THINK_OPEN in message or THINK_CLOSE in message:
        raise _Refused(Rejection.STRAY_TAG, "a closing tag without its opening")
    calls: list[ToolCall] = []
    while opened:
        if len(calls) == limit:
            raise _Refused(Rejection.TOO_MANY_CALLS, f"more than {limit} calls in one turn")
        call, rest = _read_call(rest)
        calls.append(call)
        between, opened, rest = rest.partition(OPEN)
        if between.strip():
            raise _Refused(Rejection.TEXT_AFTER_CALL, "text after a tool call")
    return message, calls


def _read_call(text: str) -> tuple[ToolCall, str]:
    body = text.lstrip()
    try:
        value, end = _DECODER.raw_decode(body)
        if "\\u" in body[:end]:  # Python reads "\ud800" as JSON, but it is no valid Unicode and could not be stored
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        if CLOSE not in body:
            raise _Refused(Rejection.UNCLOSED_CALL, f"{OPEN} was never closed") from error
        raise _Refused(Rejection.NOT_JSON, f"the call is not JSON: {error}") from error
    rest = body[end:].lstrip()
    if not rest.startswith(CLOSE):
        kind = Rejection.NOT_JSON if CLOSE in rest else Rejection.UNCLOSED_CALL
        raise _Refused(kind, f"want {CLOSE} after the JSON object")
    if not isinstance(value, dict) or set(value) != {"name", "arguments"}:
        raise _Refused(Rejection.NOT_A_CALL, 'want {"name": …, "arguments": {…}} and nothing else')
    name, arguments = value["name"], value["arguments"]
    if not isinstance(name, str) or not isinstance(arguments, dict):
        raise _Refused(Rejection.NOT_A_CALL, "name is a text, arguments an object")
    return ToolCall(name, arguments), rest[len(CLOSE) :]


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not isfinite(value):
        raise ValueError(f"{text} is too large")
    return value


_DECODER = json.JSONDecoder(parse_constant=_no_constant, parse_float=_finite, object_pairs_hook=_unique)


def _check_rules(message: str, calls: Sequence[ToolCall], *, rules: Rules) -> None:
    if not calls:
        if not message:
            raise _Refused(Rejection.EMPTY, "neither a message nor a tool call")
        if rules.call_required:
            raise _Refused(Rejection.NO_CALL, "a tool call is required")
    if rules.one_per_tool and len({call.name for call in calls}) < len(calls):
        raise _Refused(Rejection.DUPLICATE_CALL, "at most one call of each tool in a turn")


def _check_call(call: ToolCall, schemas: Mapping[str, Mapping[str, Any]]) -> None:
    schema = schemas.get(call.name)
    if schema is None:
        raise _Refused(Rejection.UNKNOWN_TOOL, f"no tool named {call.name!r}; there are {', '.join(schemas)}")
    properties: Mapping[str, Any] = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in call.arguments:
            raise _Refused(Rejection.MISSING_ARGUMENT, f"{call.name} needs the argument {name!r}")
    for name, value in call.arguments.items():
        if name not in properties:
            raise _Refused(Rejection.UNKNOWN_ARGUMENT, f"{call.name} has no argument {name!r}")
        _check_value(value, properties[name], where=f"{call.name}.{name}")


_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
    "null": (type(None),),
}


def _check_value(value: Any, schema: Mapping[str, Any], *, where: str) -> None:
    wanted = schema.get("type")
    if wanted is not None:
        names = [wanted] if isinstance(wanted, str) else list(wanted)
        if not any(_is_type(value, name) for name in names):
            raise _Refused(Rejection.WRONG_TYPE, f"{where} wants {' or '.join(names)}")
    if "enum" in schema and value not in schema["enum"]:
        raise _Refused(Rejection.NOT_IN_ENUM, f"{where} is one of {', '.join(map(str, schema['enum']))}")


def _is_type(value: Any, name: str) -> bool:
    # In Python True is an int; in JSON Schema it is not.
    return isinstance(value, _TYPES.get(name, (object,))) and (name == "boolean" or not isinstance(value, bool))
