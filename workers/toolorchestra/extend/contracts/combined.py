"""The contract of a combiner."""

from __future__ import annotations

import random
from dataclasses import replace

from toolorchestra.extend.contracts.broken import ContractBroken, hold
from toolorchestra.plugins import PluginError
from toolorchestra.rewards.component import EpisodeComponents, GroupComponents
from toolorchestra.rewards.registry import RewardConfig, build_combiner

_CLOSE = 1e-9
_TOOLS = ("small", "large")


def combiner(name: str, *, seed: int = 0, groups: int = 100) -> None:
    """Hold the combiner `name` against its contract, on random batches.

    Each episode gets one finite reward and one finite advantage; the same batch gives the same, and is left as it was;
    siblings can be permuted; equal siblings get equal advantages; a group alone, of one episode too, can be judged, and
    no group at all is no mistake; a group that is dropped has a reason, and one that is kept has none.

    Raises:
        ContractBroken: it does not.
    """
    made = build_combiner(RewardConfig(combiner=name, weights={"outcome": 1.0, "cost": 0.3, "latency": 0.2}))
    rng = random.Random(seed)
    batch = [_group(rng) for _ in range(groups)]
    try:
        results = made(batch)
        again = made(batch)
        alone = [made([group])[0] for group in batch]
        hold(made([]) == [], "no groups give something")
    except (PluginError, ArithmeticError, ValueError) as error:
        raise ContractBroken(str(error)) from error
    hold(results == again, "the same batch gives something else: it is not pure")
    for group, result, judged in zip(batch, results, alone, strict=True):
        hold(result.keep == judged.keep, f"kept in a batch {result.keep}, alone {judged.keep}: {group}")
        hold(result.keep == (not result.reason), f"keep is {result.keep}, and the reason {result.reason!r}")
        for i, one in enumerate(group.episodes):
            for j, other in enumerate(group.episodes[:i]):
                equal = one != other or abs(result.advantages[i] - result.advantages[j]) <= _CLOSE
                hold(equal, f"equal siblings have the advantages {result.advantages[i]} and {result.advantages[j]}")
    orders = [rng.sample(range(len(group.episodes)), len(group.episodes)) for group in batch]
    shuffled = made(
        [replace(g, episodes=[g.episodes[i] for i in order]) for g, order in zip(batch, orders, strict=True)]
    )
    for result, order, moved in zip(results, orders, shuffled, strict=True):
        for place, i in enumerate(order):
            for before, after in ((result.rewards, moved.rewards), (result.advantages, moved.advantages)):
                hold(abs(before[i] - after[place]) <= _CLOSE, "siblings in another order get something else")


def _group(rng: random.Random) -> GroupComponents:
    """A group of one to eight siblings, with ties, all right, all wrong or mixed."""
    right = rng.choice((0.0, 0.5, 1.0))
    episodes = [
        EpisodeComponents(
            outcome=float(rng.random() < right),
            cost=rng.choice((0.0, 0.01, rng.random())),
            latency=rng.choice((0.0, 2.0, 60 * rng.random())),
            calls={tool: rng.randrange(3) for tool in _TOOLS},
        )
        for _ in range(rng.randint(1, 8))
    ]
    weights = {"outcome": 1.0, "cost": rng.choice((0.0, 0.5)), "latency": rng.random(), "small": rng.choice((0.0, 0.2))}
    return GroupComponents(episodes=episodes, weights=weights, tools=_TOOLS)
