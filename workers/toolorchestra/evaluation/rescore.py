"""Computes the rewards and advantages that another combiner or other weights would give for a run's journal."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from toolorchestra.rewards.advantage import sample_std
from toolorchestra.rewards.component import GroupReward
from toolorchestra.rewards.registry import RewardConfig, build_combiner, task_weights
from toolorchestra.rollout.components import group_components
from toolorchestra.rollout.identity import Dispatch
from toolorchestra.rollout.trace import Trace


@dataclass(frozen=True)
class RescoredGroup:
    """A group's traces with their rewards and advantages, in the same order."""

    group: int
    traces: Sequence[Trace]
    result: GroupReward


def rescore(
    traces: Iterable[Trace], *, config: RewardConfig, groups_per_batch: int | None = None
) -> list[RescoredGroup]:
    """Compute rewards of the scored traces, group by group, the oldest group first.

    `groups_per_batch`: batch over which GDPO normalises (a run's groupsPerStep); None: all groups at once.
    """
    combiner = build_combiner(config)
    numbered = sorted(_groups(traces).items())
    size = groups_per_batch or len(numbered) or 1
    scored: list[RescoredGroup] = []
    for start in range(0, len(numbered), size):
        batch = numbered[start : start + size]
        results = combiner(
            [
                group_components(
                    siblings,
                    weights=task_weights(config, siblings[0].view.preference),
                    tools=[e.pool for e in siblings[0].view.experts],
                    latency=config.latency,
                )
                for _, siblings in batch
            ]
        )
        scored += [RescoredGroup(n, siblings, r) for (n, siblings), r in zip(batch, results, strict=True)]
    return scored


def _groups(traces: Iterable[Trace]) -> dict[int, list[Trace]]:
    """Return the scored traces by group, siblings in order of sample; of an episode's dispatches, the last counts."""
    latest: dict[tuple[int, int], tuple[tuple[int, int], Trace]] = {}
    for trace in traces:
        dispatch = Dispatch.parse(trace.issue)
        if trace.components.outcome is None:
            continue
        episode, age = (dispatch.episode.group, dispatch.episode.sample), (dispatch.incarnation, dispatch.n)
        if episode not in latest or latest[episode][0] < age:
            latest[episode] = (age, trace)
    groups: defaultdict[int, list[Trace]] = defaultdict(list)
    for (group, _), (_, trace) in sorted(latest.items()):
        groups[group].append(trace)
    return dict(groups)


def summary(groups: Sequence[RescoredGroup], *, config: RewardConfig) -> dict[str, Any]:
    """Return the summary of a re-scoring as JSON."""
    rewards = [r for g in groups for r in g.result.rewards]
    dropped = Counter(g.result.reason for g in groups if not g.result.keep)
    return {
        "combiner": config.combiner,
        "weights": dict(config.weights),
        "groups": len(groups),
        "episodes": len(rewards),
        "kept": sum(g.result.keep for g in groups),
        "dropped": dict(dropped.most_common()),
        "rewardMean": sum(rewards) / len(rewards) if rewards else None,
        "rewardStd": sample_std(rewards) if rewards else None,
    }


def episode_rows(groups: Sequence[RescoredGroup]) -> Iterable[dict[str, Any]]:
    """Yield one JSON row per episode."""
    for group in groups:
        result = group.result
        for trace, reward, advantage in zip(group.traces, result.rewards, result.advantages, strict=True):
            yield {
                "issue": trace.issue,
                "task": trace.task_id,
                "reward": reward,
                "advantage": advantage,
                "kept": result.keep,
                **({} if result.keep else {"reason": result.reason}),
            }
