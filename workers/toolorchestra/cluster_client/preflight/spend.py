"""The most that a training can really pay. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

from toolorchestra.api.pool import ExpertPool
from toolorchestra.api.training import OrchestratorTraining, OrchestratorTrainingSpec
from toolorchestra.cluster_client.preflight.line import Line
from toolorchestra.controller.settings import DEFAULT_SUITE_SIZE, worst_case_usd


def training_episodes(training: OrchestratorTraining) -> int:
    """Of all steps; groups that filters take out come on top where they are refilled."""
    algorithm = training.spec.algorithm
    return algorithm.steps * algorithm.groups_per_step * algorithm.group_size


def evaluation_episodes(training: OrchestratorTraining, experts: int) -> int:
    """Of the first and the last policy on every suite, of those between on the first suite, and of the baselines."""
    evaluation, steps = training.spec.evaluation, training.spec.algorithm.steps
    sizes = [suite.size for suite in evaluation.suites] or [DEFAULT_SUITE_SIZE]
    between = max(0, (steps - 1) // evaluation.every_steps)
    return sum(sizes) * (2 + (experts if evaluation.baselines else 0)) + sizes[0] * between


def may_chat(spec: OrchestratorTrainingSpec) -> bool:
    """Whether a task may be of kind Chat; a file may hold some, and it is not read here."""
    suites = [suite.tasks for suite in spec.evaluation.suites if suite.tasks is not None]
    sources = [source for tasks in (spec.tasks, *suites) for source in tasks.sources]
    return any(source.reasoning_gym is None or source.reasoning_gym.kind == "Chat" for source in sources)


def spend_lines(training: OrchestratorTraining, experts: Sequence[ExpertPool]) -> Iterator[Line]:
    """The cap, and what all episodes could cost at worst."""
    spec, name = training.spec, training.metadata.name
    each, cap = worst_case_usd(spec, experts, chat=may_chat(spec)), spec.limits.max_spend_usd
    episodes = training_episodes(training) + evaluation_episodes(training, len(experts))
    worst = each * episodes
    budget = spec.rollout.episode_budget.max_usd
    why = (
        "rollout.episodeBudget.maxUSD" if budget is not None else "every call goes to the dearest expert at its limits"
    )
    text = f"{name}: {_usd(each)} an episode at worst ({why}) x {episodes} episodes = {_usd(worst)}"
    if spec.algorithm.filters.when_short == "Refill":
        text += ", and more where filters take groups out and they are refilled"
    if experts and all(pool.spec.simulated for pool in experts):
        text += "; all its experts are simulated, so that nothing is really paid"
    if cap is None:
        yield Line("note", "spend", text, "nothing limits it: set spec.limits.maxSpendUSD")
    elif (size := spec.algorithm.group_size) * each > cap:
        remedy = f"raise spec.limits.maxSpendUSD, or set spec.rollout.episodeBudget.maxUSD below {_usd(cap / size)}"
        text += f"; limits.maxSpendUSD {_usd(cap)} has no room for a group of {size}"
        yield Line("missing", "spend", text, remedy)
    else:
        yield Line("ok", "spend", f"{text}; it pauses at limits.maxSpendUSD {_usd(cap)}")
        flight = spec.rollout.workers * spec.rollout.concurrency_per_worker
        if (room := int(cap / each) if each else flight) < flight:
            text = f"{name}: the worst case of each episode in flight is reserved: {room} of {flight} fit into the cap"
            yield Line("note", "spend", text, "set spec.rollout.episodeBudget.maxUSD, so that more run at a time")


def _usd(amount: Decimal) -> str:
    return f"${amount:,.2f}" if amount >= 1 or amount == 0 else f"${amount.normalize():f}"
