"""The prompts of the policy: messages and tool schemas as data. The base model's chat template renders them.

The alias follows directly after its expert's description. A small model copies the text that follows what it has just
quoted; it finds neither a key before the description nor a value after other numbers. Price and latency come last: the
policy must weigh them.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from toolorchestra.tasks.task import Task
from toolorchestra.tools.view import ExpertView, InstanceView

QA_SYSTEM = "Solve the problem by choosing the model that should answer it. Right first, then cheap, then fast."
CHAT_SYSTEM = "Solve the problem. You may ask models before you answer. Right first, then cheap, then fast."

Message = dict[str, Any]
ToolSchema = dict[str, Any]


def dollars(amount: Decimal) -> str:
    """Return the shortest exact text of an amount, without an exponent: `0.20`, `12`, `1.5`, …"""
    return f"{amount.normalize():f}"


def expert_line(expert: ExpertView) -> str:
    """Return `- good at sums | model: oak | in $0.2 out $0.8 | 3 s` (dollars per million tokens, expected seconds)."""
    price = expert.price
    cost = f"in ${dollars(price.input_usd_per_million_tokens)} out ${dollars(price.output_usd_per_million_tokens)}"
    if price.per_call_usd:
        cost += f" call ${dollars(price.per_call_usd)}"
    return f"- {expert.description} | model: {expert.alias} | {cost} | {expert.latency_ms / 1000:g} s"


def expert_tool(*, name: str, what: str, view: InstanceView, extra: ToolSchema | None = None) -> ToolSchema:
    """Return a tool whose parameter `model` takes one of the instance's aliases. `extra` adds parameters."""
    lines = "\n".join(expert_line(expert) for expert in view.experts)
    properties: dict[str, Any] = {
        "model": {"type": "string", "enum": [e.alias for e in view.experts], "description": lines},
        **(extra or {}),
    }
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": what, "parameters": parameters}}


def qa_tools(view: InstanceView) -> list[ToolSchema]:
    """Return the tools of the QA mode: `answer` with the instance's aliases. An executed `answer` ends the episode."""
    return [expert_tool(name="answer", what="Let a model give the final answer.", view=view)]


def chat_tools(view: InstanceView) -> list[ToolSchema]:
    """Return the tools of the chat mode: `ask` a model. A message of the policy without a call ends the episode."""
    question = {"question": {"type": "string", "description": "What to ask; the model sees nothing else."}}
    return [expert_tool(name="ask", what="Ask a model.", view=view, extra=question)]


def problem_text(task: Task, view: InstanceView) -> str:
    """Return the complete problem: the context, the problem, then the user's preference."""
    parts = [task.context, task.instruction, view.preference.instruction if view.preference else None]
    return "\n\n".join(part for part in parts if part)


def qa_messages(task: Task, view: InstanceView, *, attempts: Sequence[str] = ()) -> list[Message]:
    """Return one new prompt of the slot mode (method.md §2): the problem, then earlier attempts, newest first."""
    content = problem_text(task, view)
    if attempts:
        content += "\n\nPrevious attempts:\n" + "\n".join(attempts)
    return [{"role": "system", "content": QA_SYSTEM}, {"role": "user", "content": content}]


def chat_messages(task: Task, view: InstanceView) -> list[Message]:
    """Return the first messages of the growing conversation."""
    return [{"role": "system", "content": CHAT_SYSTEM}, {"role": "user", "content": problem_text(task, view)}]
