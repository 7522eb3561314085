"""Format traces: what a naive router writes, so that a policy starts reinforcement learning able to make a call.

The naive router reads descriptions and nothing else: not prices, not latencies, not aliases, and not what an expert can
really do. It names the task's topic, quotes a description, and calls the expert that it belongs to. In 3 of 10 traces
the description shares a word with the topic; else it is anyone's. What is right, and what is worth its price, is left
to reinforcement learning.

In a chat it asks that expert the problem and hands on what comes back. What comes back is made up here, a word of the
problem or a number: nobody is asked, and nothing is taught but to hand on.
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
"""How often the router heeds the topic. The rest explores: what the warm start never calls is slow to be found."""

Trace = tuple[list[Message], list[ToolSchema], str]
"""Prompt messages, tools, and the completion's text without its end-of-turn token."""

_RESULTS = ("{}", "The answer is {}.", r"\boxed{{{}}}", r"So the answer is \boxed{{{}}}.", "<answer>{}</answer>")
"""How experts give an answer (tasks/answer.py)."""
_ANSWER = r"\boxed{{{}}}"
_WORD = re.compile(r"[^\W_]+")
_STEM = 3
"""Letters that two words must share at their start to be taken for one (`leg` and `legs`)."""
_ENDING = 3
"""Letters by which the shorter of two matching words may go on differently (`sorting` and `sorts`)."""


def naive_router_traces(
    tasks: Sequence[Task],
    views: Sequence[InstanceView],
    rng: random.Random,
    *,
    match_probability: float = MATCH_PROBABILITY,
) -> list[Trace]:
    """One trace for every task and the view beside it. Pure but for `rng`."""
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
    """What the naive router writes on one instance: `<think>` topic, description `</think>`, then the call."""
    expert = choose(topic_words(task), view.experts, rng, match_probability=match_probability)
    return _thought(task, expert, ToolCall("answer", {"model": expert.alias}))


@dataclass(frozen=True)
class Talk:
    """A chat of two turns: `asks` is the first output, `result` what the expert is made to say, `answers` the last."""

    asks: str
    result: str
    answers: str


def naive_talk(
    task: Task, view: InstanceView, rng: random.Random, *, match_probability: float = MATCH_PROBABILITY
) -> Talk:
    """What the naive router says in a chat: it asks the whole problem, and gives the answer that comes back."""
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
    """The topic as words (`chain_sum`: `chain sum`); empty where the task has none."""
    return " ".join(_WORD.findall(task.topic))


def choose(
    topic: str, experts: Sequence[ExpertView], rng: random.Random, *, match_probability: float = MATCH_PROBABILITY
) -> ExpertView:
    """An expert whose description shares a word with the topic, or, mostly, and always where none does, anyone."""
    matching = [e for e in experts if shares_word(topic, e.description)]
    if matching and rng.random() < match_probability:
        return rng.choice(matching)
    return rng.choice(experts)


def shares_word(topic: str, description: str) -> bool:
    """Whether a word of one looks like a word of the other."""
    return any(_alike(a, b) for a in _words(topic) for b in _words(description))


def _words(text: str) -> list[str]:
    return [word.casefold() for word in _WORD.findall(text)]


def _alike(a: str, b: str) -> bool:
    shared = max(_STEM, min(len(a), len(b)) - _ENDING)
    return a[:shared] == b[:shared] and len(a) >= _STEM <= len(b)
