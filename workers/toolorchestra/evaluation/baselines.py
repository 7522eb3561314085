"""Baselines: the systems that a policy must beat, put together from what each expert did alone.

`always:<expert>` is one direct call of that expert per task. The other baselines choose among those calls, so they need
no calls of their own: an expert answers a task the same way whoever asks. A system that was run itself is not replaced.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from toolorchestra.evaluation.attempt import Attempt
from toolorchestra.rollout.baselines import ALWAYS, by_price
from toolorchestra.tasks.exact import normalise

POLICY = "policy"
INITIAL_POLICY = "initialPolicy"
BEST_EXPERT = "bestExpert"
CHEAPEST = "cheapest"
RANDOM = "random"
CASCADE = "cascade"
ORACLE = "oracle"
SYSTEMS = (POLICY, INITIAL_POLICY, BEST_EXPERT, CHEAPEST, RANDOM, CASCADE, ORACLE)
"""Order of a table's rows; every `always:<expert>` follows."""

Calls = Mapping[str, Attempt]
"""What each expert (by pool) did alone on one task."""


def always(expert: str) -> str:
    """Name of the system that always asks this expert."""
    return f"{ALWAYS}{expert}"


def system_order(system: str) -> tuple[int, str]:
    """Sort key of a table of systems."""
    return (SYSTEMS.index(system) if system in SYSTEMS else len(SYSTEMS), system)


def experts_of(systems: Mapping[str, Sequence[Attempt]]) -> list[str]:
    """Experts that were tried alone."""
    return sorted(name.removeprefix(ALWAYS) for name in systems if name.startswith(ALWAYS))


def best_expert(systems: Mapping[str, Sequence[Attempt]]) -> str | None:
    """The expert with the highest accuracy alone, the cheaper one of a tie, among those tried on the most tasks."""
    scored = {expert: _scored(systems[always(expert)]) for expert in experts_of(systems)}
    most = max((len(attempts) for attempts in scored.values()), default=0)
    candidates = {expert: attempts for expert, attempts in scored.items() if attempts and len(attempts) == most}
    if not candidates:
        return None
    return min(candidates, key=lambda e: (-_mean([a.right for a in candidates[e]]), _cost(candidates[e]), e))


def with_baselines(systems: Mapping[str, Sequence[Attempt]], *, seed: int) -> dict[str, list[Attempt]]:
    """All systems of one suite: those that were run, and the baselines that their `always:` attempts make."""
    complete = {name: list(attempts) for name, attempts in systems.items()}
    best = best_expert(systems)
    if best is None:
        return complete
    complete.setdefault(BEST_EXPERT, list(systems[always(best)]))
    by_task = calls_by_task(systems)
    choices: dict[str, Callable[[str, Calls], Attempt]] = {
        CHEAPEST: lambda _, calls: _ranked(calls)[0],
        RANDOM: lambda key, calls: calls[random.Random(f"random:{seed}:{key}").choice(sorted(calls))],
        CASCADE: lambda _, calls: cascade(calls),
        ORACLE: lambda _, calls: oracle(calls),
    }
    for name, choose in choices.items():
        complete.setdefault(name, [choose(key, calls) for key, calls in by_task.items()])
    return complete


def calls_by_task(systems: Mapping[str, Sequence[Attempt]]) -> dict[str, dict[str, Attempt]]:
    """Per task, what each expert did alone; unscored attempts are left out."""
    tasks: dict[str, dict[str, Attempt]] = {}
    for expert in experts_of(systems):
        for attempt in _scored(systems[always(expert)]):
            tasks.setdefault(attempt.key, {})[expert] = attempt
    return tasks


def oracle(calls: Calls) -> Attempt:
    """The cheapest right call; where none is right, the cheapest."""
    attempts = [calls[expert] for expert in sorted(calls)]
    return min(attempts, key=lambda a: (not a.right, a.nominal_usd))


def cascade(calls: Calls) -> Attempt:
    """Ask by rising list price until two answers agree; if none ever do, the last answer stands. All asked are paid."""
    asked: list[Attempt] = []
    votes: Counter[str] = Counter()
    for attempt in _ranked(calls):
        asked.append(attempt)
        answer = normalise(attempt.answer or "")
        if not answer:
            continue
        votes[answer] += 1
        if votes[answer] == 2:
            break
    tried: Counter[str] = Counter()
    for attempt in asked:
        tried.update(attempt.calls)
    return replace(
        asked[-1],
        nominal_usd=sum(a.nominal_usd for a in asked),
        actual_usd=sum(a.actual_usd for a in asked),
        service_seconds=sum(a.service_seconds for a in asked),
        wall_seconds=sum(a.wall_seconds for a in asked),
        calls=dict(tried),
        turns=len(asked),
    )


def _ranked(calls: Calls) -> list[Attempt]:
    """Attempts by rising nominal price of a usual call, as the instance shows it."""
    view = next(iter(calls.values())).view
    return [calls[expert.pool] for expert in by_price(view) if expert.pool in calls]


def _scored(attempts: Sequence[Attempt]) -> list[Attempt]:
    return [a for a in attempts if a.outcome is not None]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _cost(attempts: Sequence[Attempt]) -> float:
    return _mean([a.nominal_usd for a in attempts])
