"""Acceptance criteria of a demonstration, as a pure function of `report.json`.

A system is compared with the best expert on the tasks that both were scored on. So neither an outage nor a draw of the
tools that leaves out a task for one of them can change a result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toolorchestra.evaluation.baselines import CHEAPEST, INITIAL_POLICY, POLICY, RANDOM
from toolorchestra.rollout.baselines import ALWAYS

COST_SHARE = 0.30
MIN_TASKS = 300
MIN_TOPICS = 4
MIN_EXPERTS = 4
MAX_PRICE_RATIO = 50.0

Json = Mapping[str, Any]


@dataclass(frozen=True)
class Criterion:
    """One acceptance criterion: its name, value, threshold and result. `value` None: not measured."""

    bar: str
    value: float | None
    threshold: float
    passed: bool

    def line(self) -> str:
        """Return the criterion as one line for a terminal."""
        value = "not measured" if self.value is None else f"{self.value:.4g}"
        return f"{'pass' if self.passed else 'MISS'}  {self.bar}: {value} (bar {self.threshold:.4g})"


def acceptance(report: Json, *, suite: str | None = None) -> list[Criterion]:
    """Return all criteria on one suite, by default the first with an evaluation of the policy; empty without one."""
    rows: Sequence[Json] = report.get("evaluations", [])
    suite = suite or next((r["suite"] for r in rows if r["system"] == POLICY), None)
    systems = {r["system"]: r for r in rows if r["suite"] == suite}
    if POLICY not in systems or not any(system.startswith(ALWAYS) for system in systems):
        return []
    beside = {d["system"]: d["besideBest"] for d in report.get("evaluationDetails", []) if d["suite"] == suite}
    return [
        *_world(report, suite=str(suite), systems=systems),
        *_against_best(beside[POLICY]),
        *_others_miss(beside),
        _learned(report, suite=str(suite)),
    ]


def _at_least(bar: str, value: float | None, threshold: float) -> Criterion:
    return Criterion(bar, value, threshold, value is not None and value >= threshold)


def _at_most(bar: str, value: float | None, threshold: float) -> Criterion:
    return Criterion(bar, value, threshold, value is not None and value <= threshold)


def _world(report: Json, *, suite: str, systems: Mapping[str, Json]) -> list[Criterion]:
    """Return the criteria on the setting: enough tasks, topics and experts, and no expert is the best everywhere."""
    facts: Json = next((s for s in report.get("suites", []) if s["suite"] == suite), {})
    ratios = [r for r in (facts.get("listPriceRatio"), facts.get("measuredCostRatio")) if r is not None]
    return [
        _at_least("held-out tasks", systems[POLICY]["tasks"], MIN_TASKS),
        _at_least("datasets", len(facts.get("topics", [])), MIN_TOPICS),
        _at_least("experts", len(facts.get("experts", [])), MIN_EXPERTS),
        _at_most("dearest expert over cheapest", max(ratios, default=None), MAX_PRICE_RATIO),
        _at_most("experts that are best in every dataset", _best_everywhere(report, suite=suite), 0),
    ]


def _best_everywhere(report: Json, *, suite: str) -> int | None:
    details = [d for d in report.get("evaluationDetails", []) if d["suite"] == suite]
    accuracy = {d["system"]: d["byTopic"] for d in details if d["system"].startswith(ALWAYS)}
    topics = {topic for by_topic in accuracy.values() for topic in by_topic}
    if not topics:
        return None
    best = {t: max(by[t]["accuracy"] for by in accuracy.values() if t in by) for t in topics}
    return sum(all(t in by and by[t]["accuracy"] >= best[t] for t in topics) for by in accuracy.values())


def _against_best(policy: Json | None) -> list[Criterion]:
    accuracy, best = (policy["accuracy"], policy["bestAccuracy"]) if policy else (None, 1.0)
    return [
        _at_least("policy's accuracy, at least bestExpert's", accuracy, best),
        _at_most("policy's cost over bestExpert's", _cost_share(policy), COST_SHARE),
    ]


def _cost_share(beside: Json | None) -> float | None:
    if beside is None or not beside["bestNominalUSDPerTask"]:
        return None
    return float(beside["nominalUSDPerTask"] / beside["bestNominalUSDPerTask"])


def _others_miss(beside: Mapping[str, Json | None]) -> list[Criterion]:
    """Return the criteria that systems without learning miss accuracy or cost; value 1 where they do."""
    named = [s for s in beside if s in (INITIAL_POLICY, RANDOM, CHEAPEST) or s.startswith(ALWAYS)]
    absent = [s for s in (INITIAL_POLICY, RANDOM, CHEAPEST) if s not in beside]
    return [_at_least(f"{system} misses accuracy or cost", _misses(beside.get(system)), 1) for system in named + absent]


def _misses(beside: Json | None) -> float | None:
    if beside is None:
        return None
    share = _cost_share(beside)
    return float(beside["accuracy"] < beside["bestAccuracy"] or share is None or share > COST_SHARE)


def _learned(report: Json, *, suite: str) -> Criterion:
    """Return the criterion that the lower end of the paired interval of policy − initialPolicy is above 0."""
    for row in report.get("comparisons", []):
        if (row["suite"], row["against"], row["measure"]) == (suite, INITIAL_POLICY, "reward"):
            low = row["interval"][0]
            return Criterion(f"policy − {INITIAL_POLICY} in reward, lower end of 95%", low, 0, low > 0)
    return Criterion(f"policy − {INITIAL_POLICY} in reward, lower end of 95%", None, 0, False)
