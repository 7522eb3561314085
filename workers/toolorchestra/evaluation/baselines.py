"""Baselines: the systems that a policy must beat, put together from what each expert did alone.

`always:<expert>` is one direct call of that expert per task whose instance shows it. The other baselines choose among
those calls, so they need no calls of their own: an expert answers a task the same way whoever asks. A task on which a
baseline's choice was never scored is left out of it, as if it had been run. A system that was run itself stays as it
is.
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
"""Order of a table's rows; every `always:<expert>` follows."""

Calls = Mapping[str, Attempt]
"""What each expert (by pool) did alone on one task."""

MAX_UNSCORED = 0.1
"""Largest share of its tasks, rounded up, that a system may lack a score for and still be called the best: hard tasks
time out more often than easy ones, so that an outage hides mistakes."""
MIN_ASKED = 0.5
"""The best expert was asked at least this share of the most-asked one's tasks: a few tasks say little of a suite."""


def always(expert: str) -> str:
    """Name of the system that always asks this expert."""
    return f"{ALWAYS}{expert}"


def system_order(system: str) -> tuple[int, str]:
    """Sort key of a table of systems."""
    return (SYSTEMS.index(system) if system in SYSTEMS else len(SYSTEMS), system)


def experts_of(systems: Mapping[str, Sequence[Attempt]]) -> list[str]:
    """Experts that were tried alone."""
    return sorted(name.removeprefix(ALWAYS) for name in systems if name.startswith(ALWAYS))


def best_expert(systems: Mapping[str, Sequence[Attempt]], *, lost: Mapping[str, int] | None = None) -> str | None:
    """The expert with the highest accuracy alone, the cheaper one of a tie, among those that were asked and scored
    often enough (`MIN_ASKED`, `MAX_UNSCORED`); None where none was.

    Experts need not have the same tasks: views may show a task's experts at random, and every one has its own outages.
    `lost`: by system, tasks that ended without even a trace.
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
    """Whether a system was scored on enough of its tasks to be compared with others."""
    return 0 < scored >= asked - math.ceil(MAX_UNSCORED * asked)


def with_baselines(
    systems: Mapping[str, Sequence[Attempt]], *, best: str | None, seed: int
) -> dict[str, list[Attempt]]:
    """All systems of one suite: those that were run, and the baselines that their `always:` attempts make.

    `best` is the best expert, None where there is none.
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
    """Per task, what each expert did alone; unscored attempts are left out."""
    tasks: dict[str, dict[str, Attempt]] = {}
    for expert in experts_of(systems):
        for attempt in scored_of(systems[always(expert)]):
            tasks.setdefault(attempt.key, {})[expert] = attempt
    return tasks


def oracle(calls: Calls) -> Attempt:
    """The cheapest right call; where none is right, the cheapest."""
    attempts = [calls[expert] for expert in sorted(calls)]
    return min(attempts, key=lambda a: (not a.right, a.nominal_usd))


def cascade(calls: Calls) -> Attempt | None:
    """Ask by rising list price until two answers agree; if none ever do, the last answer stands. All asked are paid.

    What the played cascade (rollout/baselines.py) would have come to, but for budgets; None where an expert that it
    asks was never scored.
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
    """Attempts of all experts that the instance shows, by rising nominal price of a usual call; None: not scored."""
    return [calls.get(expert.pool) for expert in by_price(_view(calls))]


def _drawn(calls: Calls, *, rng: random.Random) -> Attempt | None:
    """The attempt of one of the experts that the instance shows."""
    return calls.get(rng.choice(sorted(expert.pool for expert in _view(calls).experts)))


def _view(calls: Calls) -> InstanceView:
    """What the instance shows: the same for every system."""
    return next(iter(calls.values())).view


def scored_of(attempts: Sequence[Attempt]) -> list[Attempt]:
    """Those that have an outcome."""
    return [a for a in attempts if a.outcome is not None]


def mean(values: Sequence[float]) -> float:
    """Their mean; ZeroDivisionError on none."""
    return sum(values) / len(values)


def _cost(attempts: Sequence[Attempt]) -> float:
    return mean([a.nominal_usd for a in attempts])
