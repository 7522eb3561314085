"""The simulated world: which expert is right on which task, with how many tokens and how late. Pure.

Everything is drawn from (seed, expert, task id) alone, so siblings of a group, an oracle and a restarted simulator all
see one world.
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
    """What an expert says to a task, and what saying it takes (service seconds, before any scaling)."""

    text: str
    right: bool
    tokens_out: int
    seconds: float


def is_right(table: SkillTable, model: str, *, task_id: str, topic: str) -> bool:
    """Whether the expert that serves `model` gets this task right; KeyError where the table has none."""
    draw = random.Random(f"{table.spec.seed}/{model}/{task_id}/right").random()
    return draw < float(expert_of(table, model).accuracy_of(topic))


def simulated_answer(table: SkillTable, model: str, task: SimulatedTask) -> SimulatedAnswer:
    """The expert's whole answer. Tokens spread ±25 % about the table's number, seconds follow its latency profile."""
    expert = expert_of(table, model)
    right = task.answer is not None and is_right(table, model, task_id=task.id, topic=task.topic)
    rng = random.Random(f"{table.spec.seed}/{model}/{task.id}/answer")
    seconds = _seconds(expert.latency_milliseconds, rng)
    tokens = max(1, round(expert.tokens_out_of(task.topic) * rng.uniform(0.75, 1.25)))
    final = task.answer if right and task.answer is not None else wrong_answer(task.answer, rng)
    return SimulatedAnswer(text=_reply(final), right=right, tokens_out=tokens, seconds=seconds)


def oracle(table: SkillTable, task: Task, models: Iterable[str]) -> tuple[str, ...]:
    """Which of `models` (pools' `endpoint.model`) are right on the task, in the given order. Never calls anyone."""
    return tuple(m for m in models if is_right(table, m, task_id=task.id, topic=task.topic))


def expert_of(table: SkillTable, model: str) -> SimulatedExpert:
    """The expert that serves `model`; KeyError names those there are."""
    expert = table.expert(model)
    if expert is None:
        known = ", ".join(expert.name for expert in table.spec.experts)
        raise KeyError(f"the skill table has no expert {model!r}; it has {known}")
    return expert


def _seconds(latency: LatencyProfile, rng: random.Random) -> float:
    sigma = math.log(latency.p99 / latency.p50) / _Z99
    return latency.p50 / 1000 * math.exp(sigma * rng.gauss(0.0, 1.0))


def _reply(answer: str) -> str:
    r"""The answer as the template asks for it; tagged where its own braces would spoil a `\boxed{}`."""
    return f"<answer>{answer}</answer>" if set(answer) & set("{}\\") else f"The answer is \\boxed{{{answer}}}."
