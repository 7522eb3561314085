"""Baselines decide without a policy, through the same metering and grading."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import pytest

from support.episode_world import LIMITS, FakeExperts, host_of, order_of, play
from toolorchestra.experts.errors import ExpertRefused, Reason
from toolorchestra.rollout.trace import Ending, Sampling


@pytest.mark.parametrize(
    ("system", "asked"),
    [("always:pool-dear", ["pool-dear"]), ("always:pool-cheap", ["pool-cheap"]), ("cheapest", ["pool-cheap"])],
)
async def test_one_direct_call(system: str, asked: list[str]) -> None:
    experts = FakeExperts()
    trace = await play(order_of(system=system), host_of(experts=experts))
    assert [pool for pool, _ in experts.asked] == asked
    assert (trace.ending, trace.answer, trace.components.outcome, trace.system) == (Ending.ANSWERED, "4", 1.0, system)
    assert trace.samples == ()
    assert trace.components.calls == {asked[0]: 1}
    assert trace.components.cost_usd == 15 * {"pool-cheap": Decimal("0.001"), "pool-dear": Decimal("0.01")}[asked[0]]


async def test_random_follows_the_seed() -> None:
    experts = FakeExperts()
    for seed in range(40):
        await play(order_of(system="random", sampling=Sampling(seed=seed)), host_of(experts=experts))
        await play(order_of(system="random", sampling=Sampling(seed=seed)), host_of(experts=experts))
    asked = [pool for pool, _ in experts.asked]
    assert asked[::2] == asked[1::2]
    assert min(Counter(asked).values()) >= 20


async def test_the_cascade_rises_in_price_until_two_agree() -> None:
    experts = FakeExperts({"pool-cheap": "The 4.", "pool-dear": "4"})
    trace = await play(order_of(system="cascade"), host_of(experts=experts))
    assert [pool for pool, _ in experts.asked] == ["pool-cheap", "pool-dear"]
    assert trace.components.outcome == 1.0
    assert len(trace.turns) == 2


async def test_a_cascade_without_agreement_trusts_the_dearest() -> None:
    experts = FakeExperts({"pool-cheap": "3", "pool-dear": "4"})
    assert (await play(order_of(system="cascade"), host_of(experts=experts))).answer == "4"


async def test_a_refusal_is_no_answer() -> None:
    refusal = ExpertRefused(pool="pool-cheap", reason=Reason.DECLINED, detail="no")
    trace = await play(order_of(system="cheapest"), host_of(experts=FakeExperts({"pool-cheap": refusal})))
    assert (trace.ending, trace.components.outcome) == (Ending.ANSWERED, 0.0)


async def test_budgets_bind_baselines_too() -> None:
    order = order_of(system="cheapest", limits=LIMITS.model_copy(update={"max_usd": Decimal("0.1")}))
    assert (await play(order, host_of())).ending is Ending.EPISODE_BUDGET


@pytest.mark.parametrize("system", ["always:pool-gone", "oracle?"])
async def test_an_impossible_system_is_never_scored(system: str) -> None:
    trace = await play(order_of(system=system), host_of())
    assert (trace.ending, trace.components.outcome) == (Ending.TOOL_FAILURE, None)
    assert system in trace.detail
