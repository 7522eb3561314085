"""Computes the highest real cost of a training. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal

from toolorchestra.api.pool import ExpertPool
from toolorchestra.api.training import OrchestratorTraining, OrchestratorTrainingSpec
from toolorchestra.cluster_client.preflight.line import Line
from toolorchestra.controller.settings import DEFAULT_SUITE_SIZE, worst_case_usd


def training_episodes(training: OrchestratorTraining) -> int:
    """Return the number of episodes of all steps, without refills for groups that filters remove."""
    algorithm = training.spec.algorithm
    return algorithm.steps * algorithm.groups_per_step * algorithm.group_size


def evaluation_episodes(training: OrchestratorTraining, experts: int) -> int:
    """Return the number of evaluation episodes.

    They are: the first and the last policy and the baselines on every suite; policies in between on the first suite.
    """
    evaluation, steps = training.spec.evaluation, training.spec.algorithm.steps
    sizes = [suite.size for suite in evaluation.suites] or [DEFAULT_SUITE_SIZE]
    between = max(0, (steps - 1) // evaluation.every_steps)
    return sum(sizes) * (2 + (experts if evaluation.baselines else 0)) + sizes[0] * between


def may_chat(spec: OrchestratorTrainingSpec) -> bool:
    """Return whether a task may be of kind Chat; true for task files, which are not read here."""
    suites = [suite.tasks for suite in spec.evaluation.suites if suite.tasks is not None]
    sources = [source for tasks in (spec.tasks, *suites) for source in tasks.sources]
    return any(source.reasoning_gym is None or source.reasoning_gym.kind == "Chat" for source in sources)


def spend_lines(training: OrchestratorTraining, experts: Sequence[ExpertPool]) -> Iterator[Line]:
    """Yield the spend cap and the worst-case cost of all episodes."""
    spec, name = training.spec, training.metadata.name
    each, cap = worst_case_usd(spec, experts, chat=may_chat(spec)), spec.limits.max_spend_usd
    episodes = training_episodes(training) + evaluation_episodes(training, len(experts))
    worst = each * episodes
    budget = spec.rollout.episode_budget.max_usd
    why = (
        "rollout.episodeBudget.maxUSD"
        if budget is not None
        else "every call goes to the most expensive expert, at its limits"
    )
    text = f"{name}: {_usd(each)} an episode at worst ({why}) x {episodes} episodes = {_usd(worst)}"
    if spec.algorithm.filters.when_short == "Refill":
        text += ", and more where filters remove groups and new ones replace them"
    if experts and all(pool.spec.simulated for pool in experts):
        text += "; all its experts are simulated, so nothing is really paid"
    if cap is None:
        yield Line("note", "spend", text, "nothing limits it: set spec.limits.maxSpendUSD")
    elif (size := spec.algorithm.group_size) * each > cap:
        remedy = f"raise spec.limits.maxSpendUSD, or set spec.rollout.episodeBudget.maxUSD below {_usd(cap / size)}"
        text += f"; limits.maxSpendUSD {_usd(cap)} is too low for a group of {size}"
        yield Line("missing", "spend", text, remedy)
    else:
        yield Line("ok", "spend", f"{text}; the training pauses at limits.maxSpendUSD {_usd(cap)}")
        flight = spec.rollout.workers * spec.rollout.concurrency_per_worker
        if (room := int(cap / each) if each else flight) < flight:
            text = f"{name}: each running episode reserves its worst case; the cap allows {room} of {flight} at once"
            yield Line("note", "spend", text, "set spec.rollout.episodeBudget.maxUSD, so that more run at once")


def _usd(amount: Decimal) -> str:
    return f"${amount:,.2f}" if amount >= 1 or amount == 0 else f"${amount.normalize():f}"
