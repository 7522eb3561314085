"""Baselines: systems that decide without a policy, for comparison with the trained one (episodes.md, "Baselines").

A baseline calls experts directly, with the same metering, budgets and grading as an episode of the policy. The policy
generates nothing, so the cost of a baseline is the cost of its experts only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from random import Random

from toolorchestra.rollout.calls import CallsResult, ExpertRequest
from toolorchestra.rollout.end import End
from toolorchestra.rollout.modes.qa import answer_request
from toolorchestra.rollout.order import Order
from toolorchestra.rollout.trace import Ending
from toolorchestra.tasks.answer import extract_answer
from toolorchestra.tasks.exact import normalise
from toolorchestra.tools.view import ExpertView, InstanceView

ALWAYS = "always:"
_USUAL_TOKENS = {"tokens_in": 1000, "tokens_out": 500}
"""Size of the call by which experts are ordered from cheap to expensive."""

Ask = Callable[[Sequence[ExpertRequest]], Awaitable[CallsResult]]
"""Makes the calls of one turn and records them."""


def by_price(view: InstanceView) -> list[ExpertView]:
    """Return the experts by rising nominal price of an average call; equal prices are ordered by pool name."""
    return sorted(view.experts, key=lambda expert: (expert.price.of(**_USUAL_TOKENS), expert.pool))


def candidates(order: Order) -> list[ExpertView]:
    """Return the experts that a baseline calls, in order. ValueError for an unknown system or pool."""
    view, system = order.view, order.system
    if system == "cheapest":
        return by_price(view)[:1]
    if system == "cascade":
        return by_price(view)
    if system == "random":
        return [Random(order.sampling.seed).choice(view.experts)]
    if system.startswith(ALWAYS):
        pool = system.removeprefix(ALWAYS)
        found = [expert for expert in view.experts if expert.pool == pool]
        if found:
            return found
        raise ValueError(f"{system}: the instance has no such pool; it has {', '.join(e.pool for e in view.experts)}")
    raise ValueError(f"no system {system!r}; there are policy, random, cheapest, cascade, always:POOL")


def agreement(answers: Sequence[str]) -> int | None:
    """Return the index of the first answer that repeats an earlier one, or None. Empty answers do not count."""
    seen: set[str] = set()
    for index, answer in enumerate(answers):
        if (plain := normalise(answer)) in seen:
            return index
        if plain:
            seen.add(plain)
    return None


def standing(answers: Sequence[str]) -> int:
    """Return the index of the final answer: one that two experts gave, else the last non-empty one, else the last."""
    found = agreement(answers)
    if found is not None:
        return found
    return max((i for i, answer in enumerate(answers) if normalise(answer)), default=len(answers) - 1)


async def play(order: Order, *, ask: Ask) -> End:
    """Run the baseline: one call, or for the cascade one call after the other until two answers agree.

    If no two answers agree, the most expensive expert that gave an answer decides. A refusal is no answer.
    """
    try:
        experts = candidates(order)
    except ValueError as error:
        return End(Ending.TOOL_FAILURE, str(error))
    chat = answer_request(order.task, order.view)
    answers: list[str] = []
    for expert in experts:
        request = ExpertRequest("answer", expert, chat, {"model": expert.alias})
        result = await ask([request])
        if result.end is not None:
            return result.end
        answers += [extract_answer(call.observation) if call.status == "ok" else "" for call in result.calls]
        if agreement(answers) is not None:
            break
    return End(Ending.ANSWERED, answer=answers[standing(answers)])
