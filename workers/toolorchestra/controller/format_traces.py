"""Format traces: texts of a naive router, for a warm start that teaches the policy to write a tool call.

The naive router uses only the experts' descriptions: not prices, latencies or aliases, and not what an expert can
really do. It names the task's topic, quotes a description, and calls that expert. In 3 of 10 traces the description
shares a word with the topic; otherwise the expert is random. Reinforcement learning has to find out which expert is
right and worth its price.

In a chat, the router asks that expert the problem and answers with the expert's result. The result is invented here (a
word of the problem or a number): no expert is called, and the policy only learns to pass a result on.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from toolorchestra.policy.parser import THINK_CLOSE, THINK_OPEN, ToolCall, format_calls
from toolorchestra.policy.prompts import Message, ToolSchema, problem_text, qa_messages, qa_tools
from toolorchestra.tasks.task import Task
from toolorchestra.tools.view import ExpertView, InstanceView

MATCH_PROBABILITY = 0.3
"""How often the router follows the topic. Otherwise it explores: RL is slow to find experts that are never called."""

Trace = tuple[list[Message], list[ToolSchema], str]
"""Prompt messages, tools, and the completion's text without its end-of-turn token."""

_RESULTS = ("{}", "The answer is {}.", r"\boxed{{{}}}", r"So the answer is \boxed{{{}}}.", "<answer>{}</answer>")
"""Forms in which experts give an answer (tasks/answer.py)."""
_ANSWER = r"\boxed{{{}}}"
_WORD = re.compile(r"[^\W_]+")
_STEM = 3
"""Two words match only if they share at least this many letters at the start (`leg` and `legs`)."""
_ENDING = 3
"""The shorter of two matching words may differ in this many letters at the end (`sorting` and `sorts`)."""


def naive_router_traces(
    tasks: Sequence[Task],
    views: Sequence[InstanceView],
    rng: random.Random,
    *,
    match_probability: float = MATCH_PROBABILITY,
) -> list[Trace]:
    """Return one trace for every task and its view. Pure, except for `rng`."""
    return list(_traces(tasks, views, rng, match_probability))


def _traces(
    tasks: Sequence[Task], views: Sequence[InstanceView], rng: random.Random, match_probability: float
) -> Iterator[Trace]:
    for task, view in zip(tasks, views, strict=True):
        text = naive_route(task, view, rng, match_probability=match_probability)
        yield qa_messages(task, view), qa_tools(view), text


def naive_route(
    task: Task, view: InstanceView, rng: random.Random, *, match_probability: float = MATCH_PROBABILITY
) -> str:
    """Return what the naive router writes: `<think>` topic, description `</think>`, then the call."""
    expert = choose(topic_words(task), view.experts, rng, match_probability=match_probability)
    return _thought(task, expert, ToolCall("answer", {"model": expert.alias}))


@dataclass(frozen=True)
class Talk:
    """A chat of two turns. `asks`: first output; `result`: the expert's invented result; `answers`: last output."""

    asks: str
    result: str
    answers: str


def naive_talk(
    task: Task, view: InstanceView, rng: random.Random, *, match_probability: float = MATCH_PROBABILITY
) -> Talk:
    """Return the naive router's chat: it asks an expert the whole problem, and answers with the result."""
    expert = choose(topic_words(task), view.experts, rng, match_probability=match_probability)
    call = ToolCall("ask", {"model": expert.alias, "question": problem_text(task, view)})
    said = rng.choice([*_WORD.findall(task.instruction), str(rng.randrange(1000))])
    return Talk(
        asks=_thought(task, expert, call), result=rng.choice(_RESULTS).format(said), answers=_ANSWER.format(said)
    )


def _thought(task: Task, expert: ExpertView, call: ToolCall) -> str:
    thinking = "\n".join(line for line in (topic_words(task), expert.description) if line)
    return f"{THINK_OPEN}\n{thinking}\n{THINK_CLOSE}\n{format_calls([call])}"


def topic_words(task: Task) -> str:
    """Return the topic as words (`chain_sum`: `chain sum`); empty where the task has none."""
    return " ".join(_WORD.findall(task.topic))


def choose(
    topic: str, experts: Sequence[ExpertView], rng: random.Random, *, match_probability: float = MATCH_PROBABILITY
) -> ExpertView:
    """Choose an expert: with `match_probability` one whose description matches the topic (if any does), else any."""
    matching = [e for e in experts if shares_word(topic, e.description)]
    if matching and rng.random() < match_probability:
        return rng.choice(matching)
    return rng.choice(experts)


def shares_word(topic: str, description: str) -> bool:
    """Return whether a word of the topic is similar to a word of the description."""
    return any(_alike(a, b) for a in _words(topic) for b in _words(description))


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def _alike(a: str, b: str) -> bool:
    shared = max(_STEM, min(len(a), len(b)) - _ENDING)
    return a[:shared] == b[:shared] and len(a) >= _STEM <= len(b)
