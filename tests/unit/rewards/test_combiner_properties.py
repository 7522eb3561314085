"""The properties that method.md promises of each combiner, driven by Hypothesis."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from toolorchestra.rewards.component import Combiner, EpisodeComponents, GroupComponents, GroupReward
from toolorchestra.rewards.gdpo import GDPO
from toolorchestra.rewards.minmax_dot import MinMaxDot
from toolorchestra.rewards.weighted_sum import WeightedSum

TOOLS = ("web", "code")
RANGES = {"cost": 0.05, "latency": 2.0}
GATED: list[Combiner] = [MinMaxDot(), MinMaxDot(min_range=RANGES), GDPO(), GDPO(min_range=RANGES)]
ALL: list[Combiner] = [*GATED, GDPO(gate=False), WeightedSum(), WeightedSum(min_range=RANGES)]
SCALABLE: list[Combiner] = [MinMaxDot(), GDPO(), GDPO(gate=False)]
SLACK = 1e-9

dollars = st.integers(0, 1000).map(lambda milli: milli / 1000) | st.floats(0, 10, allow_subnormal=False)
weight = st.sampled_from([0.0, 0.05, 0.3, 1.0])
episodes = st.builds(
    EpisodeComponents,
    outcome=st.sampled_from([0.0, 1.0]),
    cost=dollars,
    latency=st.floats(0, 600, allow_subnormal=False),
    calls=st.dictionaries(st.sampled_from(TOOLS), st.integers(0, 5)),
)
groups = st.builds(
    GroupComponents,
    episodes=st.lists(episodes, min_size=1, max_size=8),
    weights=st.fixed_dictionaries(dict.fromkeys(("outcome", "cost", "latency", *TOOLS), weight)),
    tools=st.just(TOOLS),
)


def one(combiner: Combiner, group: GroupComponents) -> GroupReward:
    (result,) = combiner([group])
    return result


def with_cost(group: GroupComponents, index: int, cost: float) -> GroupComponents:
    changed = list(group.episodes)
    changed[index] = replace(changed[index], cost=cost)
    return replace(group, episodes=changed)


@pytest.mark.parametrize("combiner", GATED, ids=repr)
@settings(max_examples=60)
@given(group=groups, cost=dollars, data=st.data())
def test_a_wrong_episodes_reward_does_not_depend_on_its_cost(
    combiner: Combiner, group: GroupComponents, cost: float, data: st.DataObject
) -> None:
    wrong = [i for i, e in enumerate(group.episodes) if e.outcome == 0]
    assume(wrong)
    index = data.draw(st.sampled_from(wrong))
    assert one(combiner, group).rewards[index] == one(combiner, with_cost(group, index, cost)).rewards[index]


@pytest.mark.parametrize("combiner", GATED, ids=repr)
@settings(max_examples=60)
@given(group=groups)
def test_no_right_sibling_ranks_below_a_wrong_one(combiner: Combiner, group: GroupComponents) -> None:
    rewards = one(combiner, group).rewards
    right = [r for r, e in zip(rewards, group.episodes, strict=True) if e.outcome == 1]
    wrong = [r for r, e in zip(rewards, group.episodes, strict=True) if e.outcome == 0]
    assume(right and wrong)
    assert min(right) >= max(wrong)


@pytest.mark.parametrize("combiner", ALL, ids=repr)
@settings(max_examples=60)
@given(group=groups, rise=dollars, data=st.data())
def test_a_reward_never_rises_with_its_own_cost(
    combiner: Combiner, group: GroupComponents, rise: float, data: st.DataObject
) -> None:
    index = data.draw(st.integers(0, len(group.episodes) - 1))
    dearer = with_cost(group, index, group.episodes[index].cost + rise)
    assert one(combiner, dearer).rewards[index] <= one(combiner, group).rewards[index] + SLACK


@pytest.mark.parametrize("combiner", ALL, ids=repr)
@settings(max_examples=60)
@given(group=groups, data=st.data())
def test_siblings_can_be_permuted(combiner: Combiner, group: GroupComponents, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(group.episodes))))
    straight = one(combiner, group)
    shuffled = one(combiner, replace(group, episodes=[group.episodes[i] for i in order]))
    assert shuffled.rewards == tuple(straight.rewards[i] for i in order)
    assert shuffled.advantages == tuple(straight.advantages[i] for i in order)
    assert shuffled.keep == straight.keep


@pytest.mark.parametrize("combiner", SCALABLE, ids=repr)
@settings(max_examples=60)
@given(group=groups, cost=st.sampled_from([1e-6, 0.5, 100.0]), latency=st.sampled_from([1e-3, 60.0]))
def test_components_can_be_rescaled(combiner: Combiner, group: GroupComponents, cost: float, latency: float) -> None:
    scaled = [replace(e, cost=e.cost * cost, latency=e.latency * latency) for e in group.episodes]
    before = one(combiner, group).rewards
    assert one(combiner, replace(group, episodes=scaled)).rewards == pytest.approx(before, abs=1e-6)


@pytest.mark.parametrize("combiner", ALL, ids=repr)
@settings(max_examples=50)
@given(batch=st.lists(groups, max_size=4))
def test_every_episode_gets_a_finite_reward_and_advantage(combiner: Combiner, batch: list[GroupComponents]) -> None:
    results = combiner(batch)
    assert [len(r.rewards) for r in results] == [len(g.episodes) for g in batch]
    for result in results:
        assert len(result.advantages) == len(result.rewards)
        assert all(abs(value) < 1e12 for value in (*result.rewards, *result.advantages))
        assert result.keep == (result.reason == "")
