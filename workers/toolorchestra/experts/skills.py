"""The simulated world: which expert is right on which task, with how many tokens and how late. Pure.

Everything is drawn from (seed, expert, task id) alone, so siblings of a group, an oracle and a restarted simulator all
see one world.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from toolorchestra.experts.simulated import SimulatedTask
from toolorchestra.experts.wrong import wrong_answer
from toolorchestra.tasks.task import Task

_Z99 = 2.3263478740408408
"""Standard normal quantile of 0.99: a log-normal with median p50 has its 99th percentile at p50·exp(z·σ)."""


@dataclass(frozen=True)
class Faults:
    """Shares of requests that fail in each way; the rest are answered. Drawn per request, so a retry may pass."""

    server_error: float = 0.0
    throttled: float = 0.0
    garbage: float = 0.0
    empty: float = 0.0
    hang: float = 0.0
    """No answer at all until the client gives up."""


@dataclass(frozen=True)
class Skill:
    """One simulated expert. Accuracies lie in [0, 1]; `accuracy` is by topic, `default_accuracy` for any other."""

    expert: str
    accuracy: Mapping[str, float]
    default_accuracy: float
    tokens_out: int
    latency_p50_ms: float
    latency_p99_ms: float
    faults: Faults = field(default_factory=Faults)

    def accuracy_on(self, topic: str) -> float:
        return self.accuracy.get(topic, self.default_accuracy)


@dataclass(frozen=True)
class World:
    """A seed and the skills of every expert, by the model name that requests use."""

    seed: int
    skills: Mapping[str, Skill]


@dataclass(frozen=True)
class SimulatedAnswer:
    """What an expert says to a task, and what saying it takes (service seconds, before any scaling)."""

    text: str
    right: bool
    tokens_out: int
    seconds: float


def is_right(world: World, expert: str, *, task_id: str, topic: str) -> bool:
    """Whether the expert gets this task right. KeyError for an expert that the world does not have."""
    draw = random.Random(f"{world.seed}/{expert}/{task_id}/right").random()
    return draw < world.skills[expert].accuracy_on(topic)


def simulated_answer(world: World, expert: str, task: SimulatedTask) -> SimulatedAnswer:
    """The expert's whole answer. Tokens spread ±25 % about the table's mean, seconds log-normally about its median."""
    skill = world.skills[expert]
    right = task.answer is not None and is_right(world, expert, task_id=task.id, topic=task.topic)
    rng = random.Random(f"{world.seed}/{expert}/{task.id}/answer")
    sigma = math.log(max(1.0, skill.latency_p99_ms / skill.latency_p50_ms)) / _Z99
    seconds = skill.latency_p50_ms / 1000 * math.exp(sigma * rng.gauss(0.0, 1.0))
    tokens = max(1, round(skill.tokens_out * rng.uniform(0.75, 1.25)))
    final = task.answer if right and task.answer is not None else wrong_answer(task.answer, rng)
    return SimulatedAnswer(text=_reply(final), right=right, tokens_out=tokens, seconds=seconds)


def oracle(world: World, task: Task, experts: Iterable[str]) -> tuple[str, ...]:
    """Which of `experts` (model names) are right on the task, in the given order."""
    return tuple(e for e in experts if is_right(world, e, task_id=task.id, topic=task.topic))


def _reply(answer: str) -> str:
    r"""The answer as the template asks for it; tagged where its own braces would spoil a `\boxed{}`."""
    return f"<answer>{answer}</answer>" if set(answer) & set("{}\\") else f"The answer is \\boxed{{{answer}}}."
