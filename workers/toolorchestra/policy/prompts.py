"""What the policy is told: messages and tool schemas, as data. The base model's own chat template lays them out.

The alias stands right after its description, because a small model copies what followed a text that it has just quoted,
and finds neither a key before it nor a value behind other numbers; price and latency are what the policy is to weigh.
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
    """`0.20`, `12`, `1.5` … shortest text of an amount that keeps it exact and never uses an exponent."""
    return f"{amount.normalize():f}"


def expert_line(expert: ExpertView) -> str:
    """`- good at sums | model: oak | in $0.2 out $0.8 | 3 s` (dollars per million tokens, expected seconds)."""
    price = expert.price
    cost = f"in ${dollars(price.input_usd_per_million_tokens)} out ${dollars(price.output_usd_per_million_tokens)}"
    if price.per_call_usd:
        cost += f" call ${dollars(price.per_call_usd)}"
    return f"- {expert.description} | model: {expert.alias} | {cost} | {expert.latency_ms / 1000:g} s"


def expert_tool(*, name: str, what: str, view: InstanceView, extra: ToolSchema | None = None) -> ToolSchema:
    """A tool whose parameter `model` ranges over the instance's aliases. `extra` adds parameters."""
    lines = "\n".join(expert_line(expert) for expert in view.experts)
    properties: dict[str, Any] = {
        "model": {"type": "string", "enum": [e.alias for e in view.experts], "description": lines},
        **(extra or {}),
    }
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": what, "parameters": parameters}}


def qa_tools(view: InstanceView) -> list[ToolSchema]:
    """Tools of the QA mode: `answer` over the instance's aliases; an executed `answer` ends the episode."""
    return [expert_tool(name="answer", what="Let a model give the final answer.", view=view)]


def chat_tools(view: InstanceView) -> list[ToolSchema]:
    """Tools of the chat mode: `ask` a model a question; the policy's own message without a call ends the episode."""
    question = {"question": {"type": "string", "description": "What to ask; the model sees nothing else."}}
    return [expert_tool(name="ask", what="Ask a model.", view=view, extra=question)]


def problem_text(task: Task, view: InstanceView) -> str:
    """The problem, always whole, with its context before it and the user's preference after it."""
    parts = [task.context, task.instruction, view.preference.instruction if view.preference else None]
    return "\n\n".join(part for part in parts if part)


def qa_messages(task: Task, view: InstanceView, *, attempts: Sequence[str] = ()) -> list[Message]:
    """One fresh prompt of the slot mode (method.md §2): the problem, then previous attempts, newest first."""
    content = problem_text(task, view)
    if attempts:
        content += "\n\nPrevious attempts:\n" + "\n".join(attempts)
    return [{"role": "system", "content": QA_SYSTEM}, {"role": "user", "content": content}]


def chat_messages(task: Task, view: InstanceView) -> list[Message]:
    """The first messages of the growing conversation."""
    return [{"role": "system", "content": CHAT_SYSTEM}, {"role": "user", "content": problem_text(task, view)}]
