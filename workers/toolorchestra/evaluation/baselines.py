"""Baselines: the systems that a policy must beat, computed from each expert's results alone.

`always:<expert>` is one direct call of that expert for each task whose instance shows it. The other baselines choose
among these calls and need no calls of their own: an expert's answer to a task does not depend on the caller. A task on
which a baseline's choice was not scored is left out, as in a real run. A system that was run itself is not computed.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from toolorchestra.evaluation.attempt import Attempt
from toolorchestra.rollout.baselines import ALWAYS, agreement, by_price, standing
from toolorchestra.rollout.trace import Ending
from toolorchestra.tools.view import InstanceView

POLICY = "policy"
INITIAL_POLICY = "initialPolicy"
BEST_EXPERT = "bestExpert"
CHEAPEST = "cheapest"
RANDOM = "random"
CASCADE = "cascade"
ORACLE = "oracle"
SYSTEMS = (POLICY, INITIAL_POLICY, BEST_EXPERT, CHEAPEST, RANDOM, CASCADE, ORACLE)
"""Order of the rows in a table; all `always:<expert>` follow."""

Calls = Mapping[str, Attempt]
"""Each expert's attempt alone on one task, by pool."""

MAX_UNSCORED = 0.1
"""A system without scores on more than this share of its tasks (rounded up) cannot be the best: hard tasks time out
more often than easy ones, so missing scores hide mistakes."""
MIN_ASKED = 0.5
"""The best expert must have at least this share of the tasks of the most-asked expert: a few tasks tell little."""


def always(expert: str) -> str:
    """Return the name of the system that always asks this expert."""
    return f"{ALWAYS}{expert}"


def system_order(system: str) -> tuple[int, str]:
    """Return the sort key of a system in a table."""
    return (SYSTEMS.index(system) if system in SYSTEMS else len(SYSTEMS), system)


def experts_of(systems: Mapping[str, Sequence[Attempt]]) -> list[str]:
    """Return the experts that were evaluated alone."""
    return sorted(name.removeprefix(ALWAYS) for name in systems if name.startswith(ALWAYS))


def best_expert(systems: Mapping[str, Sequence[Attempt]], *, lost: Mapping[str, int] | None = None) -> str | None:
    """Return the expert with the highest accuracy alone; in a tie, the cheaper one.

    Only experts that were asked and scored often enough count (`MIN_ASKED`, `MAX_UNSCORED`); None where there is none.
    Experts may have different tasks: views may show experts at random, and each has its own outages. `lost`: by system,
    the number of tasks that ended without a trace.
    """
    lost = lost or {}
    scored = {expert: scored_of(systems[always(expert)]) for expert in experts_of(systems)}
    asked = {expert: len(systems[always(expert)]) + lost.get(always(expert), 0) for expert in scored}
    fewest = MIN_ASKED * max(asked.values(), default=0)
    candidates = {
        expert: attempts
        for expert, attempts in scored.items()
        if asked[expert] >= fewest and is_covered(scored=len(attempts), asked=asked[expert])
    }
    if not candidates:
        return None
    return min(candidates, key=lambda e: (-mean([a.right for a in candidates[e]]), _cost(candidates[e]), e))


def is_covered(*, scored: int, asked: int) -> bool:
    """Return whether a system was scored on enough of its tasks to be compared with others."""
    return 0 < scored >= asked - math.ceil(MAX_UNSCORED * asked)


def with_baselines(
    systems: Mapping[str, Sequence[Attempt]], *, best: str | None, seed: int
) -> dict[str, list[Attempt]]:
    """Return all systems of one suite: those that were run, and the baselines computed from `always:` attempts.

    `best`: the best expert; None where there is none.
    """
    complete = {name: list(attempts) for name, attempts in systems.items()}
    if best is not None:
        complete.setdefault(BEST_EXPERT, list(systems[always(best)]))
    by_task = calls_by_task(systems)
    choices: dict[str, Callable[[str, Calls], Attempt | None]] = {
        CHEAPEST: lambda _, calls: _ranked(calls)[0],
        RANDOM: lambda key, calls: _drawn(calls, rng=random.Random(f"random:{seed}:{key}")),
        CASCADE: lambda _, calls: cascade(calls),
        ORACLE: lambda _, calls: oracle(calls),
    }
    for name, choose in choices.items():
        chosen = [choose(key, calls) for key, calls in by_task.items()]
        if name not in complete and any(chosen):
            complete[name] = [attempt for attempt in chosen if attempt is not None]
    return complete


def calls_by_task(systems: Mapping[str, Sequence[Attempt]]) -> dict[str, dict[str, Attempt]]:
    """Return, per task, each expert's attempt alone; unscored attempts are left out."""
    tasks: dict[str, dict[str, Attempt]] = {}
    for expert in experts_of(systems):
        for attempt in scored_of(systems[always(expert)]):
            tasks.setdefault(attempt.key, {})[expert] = attempt
    return tasks


def oracle(calls: Calls) -> Attempt:
    """Return the cheapest right call; where none is right, the cheapest call."""
    attempts = [calls[expert] for expert in sorted(calls)]
    return min(attempts, key=lambda a: (not a.right, a.nominal_usd))


def cascade(calls: Calls) -> Attempt | None:
    """Ask experts by rising list price until two answers agree; without agreement, the last answer counts.

    All calls are paid. The result equals that of the real cascade (rollout/baselines.py), except for budgets. None
    where an expert that it asks was not scored.
    """
    asked: list[Attempt] = []
    for attempt in _ranked(calls):
        if attempt is None:
            return None
        asked.append(attempt)
        if attempt.ending != Ending.ANSWERED or agreement(_answers(asked)) is not None:
            break
    cut = asked[-1].ending != Ending.ANSWERED
    tried: Counter[str] = Counter()
    for attempt in asked:
        tried.update(attempt.calls)
    return replace(
        asked[-1] if cut else asked[standing(_answers(asked))],
        nominal_usd=sum(a.nominal_usd for a in asked),
        actual_usd=sum(a.actual_usd for a in asked),
        service_seconds=sum(a.service_seconds for a in asked),
        wall_seconds=sum(a.wall_seconds for a in asked),
        calls=dict(tried),
        turns=len(asked),
    )


def _answers(attempts: Sequence[Attempt]) -> list[str]:
    return [a.answer or "" for a in attempts]


def _ranked(calls: Calls) -> list[Attempt | None]:
    """Return the attempts of the instance's experts, by rising nominal price of a usual call; None: not scored."""
    return [calls.get(expert.pool) for expert in by_price(_view(calls))]


def _drawn(calls: Calls, *, rng: random.Random) -> Attempt | None:
    """Return the attempt of a random expert of the instance; None where it was not scored."""
    return calls.get(rng.choice(sorted(expert.pool for expert in _view(calls).experts)))


def _view(calls: Calls) -> InstanceView:
    """Return the task's view, which is the same for every system."""
    return next(iter(calls.values())).view


def scored_of(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Return the attempts that have an outcome."""
    return [a for a in attempts if a.outcome is not None]


def mean(values: Sequence[float]) -> float:
    """Return the mean; ZeroDivisionError for an empty list."""
    return sum(values) / len(values)


def _cost(attempts: Sequence[Attempt]) -> float:
    return mean([a.nominal_usd for a in attempts])
