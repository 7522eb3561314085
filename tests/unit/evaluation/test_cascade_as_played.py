"""Baselines that are computed from `always:` attempts come to what they would have come to, had they been played."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from toolorchestra.evaluation.attempt import Attempt
from toolorchestra.evaluation.baselines import cascade, with_baselines
from toolorchestra.rollout.baselines import play
from toolorchestra.rollout.calls import CallsResult, ExpertRequest
from toolorchestra.rollout.end import End
from toolorchestra.rollout.order import EpisodeLimits, Order
from toolorchestra.rollout.trace import Call, Ending, Meter, Sampling
from toolorchestra.tasks.grader import grade
from toolorchestra.tasks.task import GraderSpec, Task
from toolorchestra.tools.view import ExpertView, InstanceView, Price

TASK = Task(id="t", instruction="2 + 2?", grader=GraderSpec(type="ExactMatch", data={"answer": "4"}), source="s")
LIMITS = EpisodeLimits(max_turns=4, max_prompt_tokens=6000, max_response_tokens=900, timeout_seconds=20.0)

reply = st.sampled_from(
    ["4", "The 4.", r"so \boxed{4}", "5", r"\boxed{5}", "7", "", " ", ".", r"\boxed{}", None, "out"]
)
"""None: the expert refuses. "out": it cannot be reached."""


def view_of(prices: Sequence[int]) -> InstanceView:
    return InstanceView(
        price_book="own",
        policy_price=Price(),
        experts=tuple(
            ExpertView(alias=f"a{i}", pool=f"p{i}", description="d", price=Price(per_call_usd=Decimal(p)), latency_ms=1)
            for i, p in enumerate(prices)
        ),
    )


def played(system: str, view: InstanceView, replies: dict[str, str | None]) -> Attempt:
    """What an episode of that system comes to, metered and graded."""
    order = Order(issue="u.0.0.0.0", task=TASK, view=view, limits=LIMITS, sampling=Sampling(seed=1), system=system)
    made: list[Call] = []

    async def ask(requests: Sequence[ExpertRequest]) -> CallsResult:
        (request,) = requests
        text, price = replies[request.expert.pool], request.expert.price.per_call_usd
        if text == "out":
            return CallsResult((), End(Ending.EXPERT_UNAVAILABLE, "out"))
        meter = Meter(nominal_usd=price, actual_usd=price, service_seconds=2.0)
        status, said = ("refused", "I must not") if text is None else ("ok", text)
        made.append(
            Call(
                tool="answer", name=request.expert.pool, alias=request.expert.alias, arguments={}, status=status,
                observation=said, meter=meter,
            )
        )  # fmt: skip
        return CallsResult((made[-1],))

    end = asyncio.run(play(order, ask=ask))
    usd = float(sum(call.meter.nominal_usd for call in made))
    return Attempt(
        key="t",
        topic="",
        outcome=grade(TASK, end.answer).outcome if end.ending is Ending.ANSWERED else None,
        nominal_usd=usd,
        actual_usd=usd,
        service_seconds=2.0 * len(made),
        wall_seconds=2.0 * len(made),
        calls={call.name: 1 for call in made},
        turns=len(made),
        ending=end.ending.value,
        answer=end.answer,
        view=view,
    )


@settings(max_examples=400, deadline=None)
@given(table=st.lists(st.tuples(st.integers(1, 3), reply), min_size=1, max_size=5))
def test_the_computed_cascade_is_the_played_one(table: list[tuple[int, str | None]]) -> None:
    view = view_of([price for price, _ in table])
    replies = {f"p{i}": text for i, (_, text) in enumerate(table)}
    alone = {pool: played(f"always:{pool}", view, replies) for pool in replies}
    whole = played("cascade", view, replies)
    scored = {pool: attempt for pool, attempt in alone.items() if attempt.outcome is not None}
    computed = cascade(scored) if scored else None
    assert computed == (None if whole.outcome is None else whole)
    systems = {f"always:{pool}": [attempt] for pool, attempt in alone.items()}
    cheapest = played("cheapest", view, replies)
    expected = [] if cheapest.outcome is None else [cheapest]
    assert with_baselines(systems, best=None, seed=0).get("cheapest", []) == expected
