"""Adapts messages and tools to a chat template that lacks features. One test rendering finds what is missing.

- A template that renders no tools: the tools go into the system message, in the format of Qwen's and Hermes' templates.
- A template without the tool role: results are given as a user message.
- A template without the system role: the system text goes before the first user message.

Invariants: pure. The layout of the beginning of a conversation is the beginning of the layout of the whole
conversation, so conversations only grow. A template that lacks nothing gets the messages unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from toolorchestra.policy.parser import CLOSE, OPEN, ToolCall, format_calls
from toolorchestra.policy.prompts import Message, ToolSchema
from toolorchestra.policy.template import ChatTemplate, TemplateError

_SYSTEM, _USER, _RESULT, _ALIAS = "be-the-system", "ask-as-user", "came-from-a-tool", "is-an-alias"
"""Words that the probe looks for in a rendered text. No template writes them itself."""
_TOOL: ToolSchema = {
    "type": "function",
    "function": {
        "name": "answer",
        "description": "Let a model answer.",
        "parameters": {
            "type": "object",
            "properties": {"model": {"type": "string", "enum": [_ALIAS], "description": f"- good | model: {_ALIAS}"}},
            "required": ["model"],
        },
    },
}
_CALLED: Message = {"role": "assistant", "content": format_calls([ToolCall("answer", {"model": _ALIAS})])}


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """The features that a template has."""

    system_role: bool = True
    tools: bool = True
    tool_role: bool = True
    call_form: bool = True
    """Whether it shows how a call is written (`<tool_call>`)."""

    def lay_out(
        self, messages: Sequence[Message], tools: Sequence[ToolSchema] = ()
    ) -> tuple[list[Message], Sequence[ToolSchema]]:
        """Return messages and tools in a form that this template can render."""
        laid = list(messages)
        if tools and not self.tools:
            laid, tools = _with_tools(laid, tools), ()
        if not self.system_role:
            laid = _without_system(laid)
        if not self.tool_role:
            laid = _results_as_user(laid)
        return laid, tools

    @property
    def said(self) -> tuple[str, ...]:
        """Messages about missing features, shown before a training starts; empty if nothing is missing."""
        lacks = {
            "renders no tools: they go into the system message, in Hermes form": not self.tools,
            "refuses or drops the role tool: results are given as a user message": not self.tool_role,
            "refuses or drops the role system: its text goes before the first user message": not self.system_role,
            f"does not say how a tool is called ({OPEN}): the model has to know, or warmStart teaches it": (
                self.tools and not self.call_form
            ),
        }
        return tuple(f"its chat template {what}" for what, lacking in lacks.items() if lacking)


def dialect_of(template: ChatTemplate) -> Dialect:
    """Return the dialect of a template, by test renderings. TemplateError if it does not even render a user message."""
    asked: list[Message] = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": _USER}]
    found = Dialect(system_role=True, tools=False, tool_role=False)
    if not _shows(template, found, asked, _SYSTEM, _USER):
        found = replace(found, system_role=False)
        if not _shows(template, found, asked, _SYSTEM, _USER):
            laid, _ = found.lay_out(asked)
            template.render(laid)  # if the template refuses, its own error is raised
            raise TemplateError("the chat template does not show the user's message")
    with_tools = replace(found, tools=True)
    if _shows(template, with_tools, asked, _USER, _ALIAS, tools=[_TOOL]):
        found = replace(with_tools, call_form=_shows(template, with_tools, asked, OPEN, CLOSE, tools=[_TOOL]))
    turn = [*asked, _CALLED, {"role": "tool", "content": _RESULT}]
    with_role = replace(found, tool_role=True)
    if _shows(template, with_role, turn, _USER, _RESULT, tools=[_TOOL]):
        found = with_role
    return found


def _shows(
    template: ChatTemplate, dialect: Dialect, messages: Sequence[Message], *words: str, tools: Sequence[Any] = ()
) -> bool:
    laid, given = dialect.lay_out(messages, tools)
    try:
        text = template.render(laid, tools=given)
    except TemplateError:
        return False
    return all(word in text for word in words)


def _with_tools(messages: Sequence[Message], tools: Sequence[ToolSchema]) -> list[Message]:
    """Add the tools to the system message, with exactly the text of Qwen's template: a model may know that format."""
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    text = (
        "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
        f"You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n{listed}\n</tools>\n\n"
        "For each function call, return a json object with function name and arguments within "
        f"{OPEN}{CLOSE} XML tags:\n"
        f'{OPEN}\n{{"name": <function-name>, "arguments": <args-json-object>}}\n{CLOSE}'
    )
    if messages and messages[0]["role"] == "system":
        return [{"role": "system", "content": f"{messages[0]['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _without_system(messages: Sequence[Message]) -> list[Message]:
    if not messages or messages[0]["role"] != "system":
        return list(messages)
    said, rest = str(messages[0]["content"]), messages[1:]
    if rest and rest[0]["role"] == "user":
        said, rest = f"{said}\n\n{rest[0]['content']}", rest[1:]
    return [{"role": "user", "content": said}, *rest]


def _results_as_user(messages: Sequence[Message]) -> list[Message]:
    """Turn results into user messages. Results of one turn become one message: most such templates alternate roles."""
    laid: list[Message] = []
    before = ""
    for message in messages:
        role = message["role"]
        if role != "tool":
            laid.append(message)
        else:
            text = f"<tool_response>\n{message['content']}\n</tool_response>"
            if before == "tool":
                text = f"{laid.pop()['content']}\n{text}"
            laid.append({"role": "user", "content": text})
        before = role
    return laid
