"""Computes rows of `report.json` from attempts: one row per system and suite, and paired differences."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolorchestra.evaluation.attempt import Attempt, list_price
from toolorchestra.evaluation.baselines import (
    BEST_EXPERT,
    POLICY,
    always,
    best_expert,
    calls_by_task,
    experts_of,
    mean,
    scored_of,
    system_order,
    with_baselines,
)
from toolorchestra.evaluation.interval import paired_difference, wilson
from toolorchestra.evaluation.reward_scale import RewardScale, attempt_reward, scales
from toolorchestra.rewards.registry import RewardConfig

Json = dict[str, Any]


@dataclass(frozen=True)
class SuiteResult:
    """One suite as JSON: `rows` for `evaluations`, their `details`, and comparisons of the policy with each system."""

    rows: list[Json]
    details: list[Json]
    comparisons: list[Json]
    suite: Json


def evaluate_suite(
    name: str,
    systems: Mapping[str, Sequence[Attempt]],
    *,
    config: RewardConfig,
    seed: int,
    lost: Mapping[str, int] | None = None,
) -> SuiteResult:
    """Return the report's data about one suite. `systems`: those that were run; baselines are added.

    `lost`: by system, the number of further tasks that ended without a trace.
    """
    best = best_expert(systems, lost=lost)
    complete = with_baselines(systems, best=best, seed=seed)
    by_task = calls_by_task(systems)
    task_scales = scales(by_task, config=config)
    ordered = sorted((s for s in complete if any(a.outcome is not None for a in complete[s])), key=system_order)
    rewards = {s: _rewards(complete[s], config=config, scales_by_task=task_scales) for s in ordered}
    missing = _unscored(systems, complete, best=best, lost=lost or {})
    bests = scored_of(complete.get(BEST_EXPERT, ()))
    return SuiteResult(
        rows=[_row(name, s, complete[s], rewards[s], unscored=missing[s], seed=seed) for s in ordered],
        details=[_detail(name, s, complete[s], bests, unscored=missing[s], run=s in systems) for s in ordered],
        comparisons=_comparisons(name, {s: complete[s] for s in ordered}, rewards, seed=seed),
        suite=_suite(name, systems, complete, best=best) | {"unscored": {s: n for s, n in missing.items() if n}},
    )


def _unscored(
    systems: Mapping[str, Sequence[Attempt]],
    complete: Mapping[str, Sequence[Attempt]],
    *,
    best: str | None,
    lost: Mapping[str, int],
) -> dict[str, int]:
    """Return, by system, on how many of the suite's tasks it was not scored, also for systems without any score.

    A baseline that chooses among the experts' calls lacks the tasks on which its choice was not scored.
    """
    missing = {s: len(attempts) - len(scored_of(attempts)) + lost.get(s, 0) for s, attempts in systems.items()}
    missing |= {s: n for s, n in lost.items() if s not in systems}
    alone = [always(expert) for expert in experts_of(systems)]
    keys = {a.key for s in alone for a in systems[s]}
    tasks = max([len(keys), *(len(systems[s]) + lost.get(s, 0) for s in alone)])
    for system in complete.keys() - systems.keys():
        missing[system] = tasks - len(scored_of(complete[system]))
    if BEST_EXPERT not in systems and best is not None:
        missing[BEST_EXPERT] = missing[always(best)]
    return dict(sorted(missing.items(), key=lambda item: system_order(item[0])))


def _rewards(
    attempts: Sequence[Attempt], *, config: RewardConfig, scales_by_task: Mapping[str, RewardScale]
) -> dict[str, float]:
    """Return the reward by task key."""
    return {a.key: attempt_reward(a, config=config, scale=scales_by_task.get(a.key)) for a in scored_of(attempts)}


def _row(
    suite: str, system: str, attempts: Sequence[Attempt], rewards: Mapping[str, float], *, unscored: int, seed: int
) -> Json:
    scored = scored_of(attempts)
    right = sum(a.right for a in scored)
    return {
        "system": system,
        "suite": suite,
        "tasks": len(scored),
        "unscored": unscored,
        "accuracy": right / len(scored),
        "accuracyInterval": list(wilson(right, len(scored))),
        "reward": mean(list(rewards.values())),
        "nominalUSDPerTask": mean([a.nominal_usd for a in scored]),
        "actualUSDPerTask": mean([a.actual_usd for a in scored]),
        "serviceSecondsPerTask": mean([a.service_seconds for a in scored]),
        "seed": seed,
    }


def _detail(
    suite: str, system: str, attempts: Sequence[Attempt], bests: Sequence[Attempt], *, unscored: int, run: bool
) -> Json:
    scored = scored_of(attempts)
    calls: Counter[str] = Counter()
    for attempt in scored:
        calls.update(attempt.calls)
    return {
        "system": system,
        "suite": suite,
        "measured": "run" if run else "from always:",
        "unscored": unscored,
        "endings": dict(Counter(a.ending for a in attempts).most_common()),
        "callsPerTask": {tool: n / len(scored) for tool, n in sorted(calls.items())},
        "turnsPerTask": mean([a.turns for a in scored]),
        "wallSecondsPerTask": mean([a.wall_seconds for a in scored]),
        "besideBest": _beside(scored, bests),
        "byTopic": {topic: _topic([a for a in scored if a.topic == topic]) for topic in _topics(scored)},
    }


def _beside(attempts: Sequence[Attempt], bests: Sequence[Attempt]) -> Json | None:
    """Compare accuracy and cost with the best expert's on the tasks that both were scored on; None without any."""
    theirs = {a.key: a for a in bests}
    pairs = [(a, theirs[a.key]) for a in attempts if a.key in theirs]
    if not pairs:
        return None
    return {
        "tasks": len(pairs),
        "accuracy": mean([a.right for a, _ in pairs]),
        "bestAccuracy": mean([b.right for _, b in pairs]),
        "nominalUSDPerTask": mean([a.nominal_usd for a, _ in pairs]),
        "bestNominalUSDPerTask": mean([b.nominal_usd for _, b in pairs]),
    }


def _topic(attempts: Sequence[Attempt]) -> Json:
    calls: Counter[str] = Counter()
    for attempt in attempts:
        calls.update(attempt.calls)
    return {
        "tasks": len(attempts),
        "callsPerTask": {tool: n / len(attempts) for tool, n in sorted(calls.items())},
        "accuracy": mean([a.right for a in attempts]),
        "nominalUSDPerTask": mean([a.nominal_usd for a in attempts]),
    }


def _topics(attempts: Sequence[Attempt]) -> list[str]:
    return sorted({a.topic for a in attempts})


def _comparisons(
    suite: str,
    systems: Mapping[str, Sequence[Attempt]],
    rewards: Mapping[str, Mapping[str, float]],
    *,
    seed: int,
) -> list[Json]:
    """Return the difference of the policy and every other system, paired by task, where both were scored."""
    if POLICY not in systems:
        return []
    right = {s: {a.key: float(a.right) for a in scored_of(attempts)} for s, attempts in systems.items()}
    cost = {s: {a.key: a.nominal_usd for a in scored_of(attempts)} for s, attempts in systems.items()}
    measures: dict[str, Mapping[str, Mapping[str, float]]] = {
        "reward": rewards,
        "accuracy": right,
        "nominalUSDPerTask": cost,
    }
    return [
        comparison
        for other in systems
        if other != POLICY
        for measure, values in measures.items()
        if (comparison := _comparison(suite, other, measure, values[POLICY], values[other], seed=seed))
    ]


def _comparison(
    suite: str, other: str, measure: str, mine: Mapping[str, float], theirs: Mapping[str, float], *, seed: int
) -> Json | None:
    common = sorted(mine.keys() & theirs.keys())
    if not common:
        return None
    difference = paired_difference([mine[k] for k in common], [theirs[k] for k in common], seed=seed)
    return {
        "suite": suite,
        "system": POLICY,
        "against": other,
        "measure": measure,
        "mean": difference.mean,
        "interval": [difference.low, difference.high],
        "tasks": difference.pairs,
        "method": "paired bootstrap, 95%",
    }


def _suite(
    name: str,
    systems: Mapping[str, Sequence[Attempt]],
    complete: Mapping[str, Sequence[Attempt]],
    *,
    best: str | None,
) -> Json:
    experts = experts_of(systems)
    everything = [a for attempts in complete.values() for a in scored_of(attempts)]
    costs = [
        mean([a.nominal_usd for a in scored_of(systems[always(e)])]) for e in experts if scored_of(systems[always(e)])
    ]
    return {
        "suite": name,
        "tasks": len({a.key for a in everything}),
        "topics": _topics(everything),
        "experts": experts,
        BEST_EXPERT: best,
        "listPriceRatio": max((_list_ratio(a) for a in everything), default=None),
        "measuredCostRatio": max(costs) / min(costs) if costs and min(costs) > 0 else None,
    }


def _list_ratio(attempt: Attempt) -> float:
    """Return the ratio of the highest and the lowest list price of the instance's experts; 1 without prices."""
    prices = [p for e in attempt.view.experts if (p := list_price(e.price)) > 0]
    return max(prices) / min(prices) if prices else 1.0
