"""The parser: total, strict, and the inverse of the writer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolorchestra.policy.parser import Rejection, Rules, ToolCall, format_calls, parse


def tool(name: str, properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties) if required is None else required,
    }
    return {"type": "function", "function": {"name": name, "description": "", "parameters": parameters}}


TOOLS = [
    tool("answer", {"model": {"type": "string", "enum": ["oak", "elm"]}}),
    tool("ask", {"model": {"type": "string"}, "question": {"type": "string"}, "n": {"type": "integer"}}, ["question"]),
]
FREE = [tool("any", {})]

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
SOUND = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    ["</tool_call>", "<tool_call>", "</think>", '{"name"', "\u2028"]
)


@given(st.text() | st.text(alphabet=list('<tool_cal/hink>{}":,[]\\u d8\n')))
def test_never_raises(text: str) -> None:
    parsed = parse(text, tools=TOOLS)
    assert (parsed.rejection is None) or not parsed.calls


FRAGMENTS = ["<tool_call>", "</tool_call>", "<think>", "</think>", '{"name": "answer", "arguments": {"model": "oak"}}']


@given(st.lists(st.sampled_from([*FRAGMENTS, "{", "}", "[" * 9000, '"\\ud800"', "NaN", "9" * 5000, "\n", "text"])))
def test_never_raises_on_near_misses(parts: list[str]) -> None:
    parsed = parse("".join(parts), tools=TOOLS)
    assert parsed.rejection is None or parsed.detail


@given(st.lists(st.tuples(SOUND, SOUND, st.integers(-(2**80), 2**80)), max_size=6))
def test_reads_what_it_writes(drawn: list[tuple[str, str, int]]) -> None:
    calls = tuple(ToolCall("ask", {"model": m, "question": q, "n": n}) for m, q, n in drawn)
    parsed = parse("some words" + format_calls(calls), tools=TOOLS)
    assert (parsed.rejection, parsed.calls) == (None, calls)


@given(st.dictionaries(st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=5), JSON, max_size=4))
def test_reads_any_json_argument(arguments: dict[str, Any]) -> None:
    schema = [tool("any", {name: {} for name in arguments})]
    call = ToolCall("any", arguments)
    assert parse(format_calls([call]), tools=schema).calls == (call,)


CALL = '<tool_call>\n{"name": "answer", "arguments": {"model": "oak"}}\n</tool_call>'
REFUSED = {
    Rejection.EMPTY: "  \n",
    Rejection.UNCLOSED_THINK: "<think>well",
    Rejection.UNCLOSED_CALL: '<tool_call>\n{"name": "answer", "argu',
    Rejection.STRAY_TAG: "so </tool_call>",
    Rejection.TEXT_AFTER_CALL: CALL + " done",
    Rejection.NOT_JSON: "<tool_call>{'name': 'answer'}</tool_call>",
    Rejection.NOT_A_CALL: '<tool_call>{"name": "answer", "arguments": {}, "id": 1}</tool_call>',
    Rejection.UNKNOWN_TOOL: '<tool_call>{"name": "guess", "arguments": {}}</tool_call>',
    Rejection.MISSING_ARGUMENT: '<tool_call>{"name": "answer", "arguments": {}}</tool_call>',
    Rejection.UNKNOWN_ARGUMENT: CALL.replace('"oak"', '"oak", "x": 1'),
    Rejection.WRONG_TYPE: CALL.replace('"oak"', "3"),
    Rejection.NOT_IN_ENUM: CALL.replace("oak", "ash"),
    Rejection.TOO_MANY_CALLS: CALL * 4,
    Rejection.DUPLICATE_CALL: CALL * 2,
    Rejection.NO_CALL: "forty-two",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_each_rejection_has_a_text_that_earns_it(kind: Rejection) -> None:
    parsed = parse(REFUSED[kind], tools=TOOLS, rules=Rules(call_required=True, max_calls=3, one_per_tool=True))
    assert parsed.rejection is kind
    assert parsed.calls == ()
    assert parsed.detail


def test_all_kinds_but_truncation_come_from_text() -> None:
    assert set(Rejection) - set(REFUSED) == {Rejection.TRUNCATED}


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", '"\\ud800"', '{"a": 1, "a": 2}', "[" * 5000])
def test_json_that_only_python_reads_is_refused(value: str) -> None:
    parsed = parse(f'<tool_call>{{"name": "ask", "arguments": {{"question": {value}}}}}</tool_call>', tools=TOOLS)
    assert parsed.rejection is Rejection.NOT_JSON


def test_a_boolean_is_no_integer() -> None:
    text = format_calls([ToolCall("ask", {"question": "q", "n": True})])
    assert parse(text, tools=TOOLS).rejection is Rejection.WRONG_TYPE


def test_thinking_is_kept_apart_and_calls_in_it_do_not_count() -> None:
    parsed = parse(f"<think>maybe {CALL}</think>\nI ask oak. {CALL}", tools=TOOLS)
    assert (parsed.thinking, parsed.message) == (f"maybe {CALL}", "I ask oak.")
    assert parsed.calls == (ToolCall("answer", {"model": "oak"}),)


def test_a_prompt_that_opened_the_thinking() -> None:
    parsed = parse(f"hm</think>{CALL}", tools=TOOLS, thinking_open=True)
    assert (parsed.thinking, len(parsed.calls)) == ("hm", 1)
    assert parse(CALL, tools=TOOLS, thinking_open=True).rejection is Rejection.UNCLOSED_THINK
