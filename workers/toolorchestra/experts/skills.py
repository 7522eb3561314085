"""The simulated experts: for each expert and task, whether it is right, its tokens and its latency. Pure.

Everything is drawn from (seed, expert, task id) only. So the siblings of a group, an oracle and a restarted simulator
see the same results.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import dataclass

from toolorchestra.api.skill_table import LatencyProfile, SimulatedExpert, SkillTable
from toolorchestra.experts.simulated import SimulatedTask
from toolorchestra.experts.wrong import wrong_answer
from toolorchestra.tasks.task import Task

_Z99 = 2.3263478740408408
"""Standard normal quantile of 0.99: a log-normal with median p50 has its 99th percentile at p50·exp(z·σ)."""


@dataclass(frozen=True)
class SimulatedAnswer:
    """An expert's answer to a task, with its output tokens and its service time in seconds (before scaling)."""

    text: str
    right: bool
    tokens_out: int
    seconds: float


def is_right(table: SkillTable, model: str, *, task_id: str, topic: str) -> bool:
    """Return whether the expert that serves `model` gets this task right. KeyError if the table has no such expert."""
    draw = random.Random(f"{table.spec.seed}/{model}/{task_id}/right").random()
    return draw < float(expert_of(table, model).accuracy_of(topic))


def simulated_answer(table: SkillTable, model: str, task: SimulatedTask) -> SimulatedAnswer:
    """Return the expert's answer. Tokens vary by ±25 % around the table's number; its latency profile gives seconds."""
    expert = expert_of(table, model)
    right = task.answer is not None and is_right(table, model, task_id=task.id, topic=task.topic)
    rng = random.Random(f"{table.spec.seed}/{model}/{task.id}/answer")
    seconds = _seconds(expert.latency_milliseconds, rng)
    tokens = max(1, round(expert.tokens_out_of(task.topic) * rng.uniform(0.75, 1.25)))
    final = task.answer if right and task.answer is not None else wrong_answer(task.answer, rng)
    return SimulatedAnswer(text=_reply(final), right=right, tokens_out=tokens, seconds=seconds)


def oracle(table: SkillTable, task: Task, models: Iterable[str]) -> tuple[str, ...]:
    """Return those of `models` (the pools' `endpoint.model`) that are right on the task, in order. Makes no calls."""
    return tuple(m for m in models if is_right(table, m, task_id=task.id, topic=task.topic))


def expert_of(table: SkillTable, model: str) -> SimulatedExpert:
    """Return the expert that serves `model`. KeyError, with the known names, if there is none."""
    expert = table.expert(model)
    if expert is None:
        known = ", ".join(expert.name for expert in table.spec.experts)
        raise KeyError(f"the skill table has no expert {model!r}; it has {known}")
    return expert


def _seconds(latency: LatencyProfile, rng: random.Random) -> float:
    sigma = math.log(latency.p99 / latency.p50) / _Z99
    return latency.p50 / 1000 * math.exp(sigma * rng.gauss(0.0, 1.0))


def _reply(answer: str) -> str:
    r"""Return the answer in the template's format. Tags replace `\boxed{}` if the answer itself contains braces."""
    return f"<answer>{answer}</answer>" if set(answer) & set("{}\\") else f"The answer is \\boxed{{{answer}}}."
