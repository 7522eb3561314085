"""Makes the parts of a run from a training's YAML. Pure, except that it reads task files.

Everything that can be refused is refused here, before anything is started or spent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from toolorchestra.api.pool import ExpertPool
from toolorchestra.api.suite import Suite as SuiteSpec
from toolorchestra.api.training import OrchestratorTraining, OrchestratorTrainingSpec
from toolorchestra.controller.assemble import SampleFilters
from toolorchestra.controller.errors import ControllerError
from toolorchestra.controller.instances import Instances
from toolorchestra.controller.rewarding import Rewarding
from toolorchestra.experts.worst_case import attempt_usd, episode_usd, most_prompt_bytes
from toolorchestra.ledger.ledger import LedgerConfig
from toolorchestra.plugins import PluginError, is_plugin, load
from toolorchestra.rewards.preferences import TemplatePreferences
from toolorchestra.rewards.registry import RewardConfig, build_combiner, reward_config
from toolorchestra.rollout.order import EpisodeLimits
from toolorchestra.tasks.build import build_suite
from toolorchestra.tasks.source import SourceError
from toolorchestra.tasks.suite import Suite
from toolorchestra.tools.build import build_catalog, build_sampler, price_of
from toolorchestra.tools.catalog import Catalog, CatalogError
from toolorchestra.tools.sampler import ViewSampler
from toolorchestra.trainer.batch import KLEstimator, StepConfig
from toolorchestra.trainer.schedule import Schedule

DEFAULT_SUITE = "held-out"
DEFAULT_SUITE_SIZE = 300

FindFile = Callable[[str], Path]
"""Resolves a URI of the YAML to a local file or folder; raises SettingsError, which says what to do."""


class SettingsError(ControllerError):
    """The YAML is well-formed, but this run cannot be made of it. The text says what to change."""


@dataclass(frozen=True)
class EvaluationSuite:
    """A suite to evaluate on: its tasks come from `suite`, its tools from `sampler`."""

    name: str
    size: int
    suite: Suite
    sampler: ViewSampler


@dataclass(frozen=True)
class Settings:
    """The parts of a run, built from the YAML."""

    instances: Instances
    rewarding: Rewarding
    ledger: LedgerConfig
    step: StepConfig
    schedule: Schedule
    warm_step: StepConfig
    suites: tuple[EvaluationSuite, ...]
    cap: Decimal | None
    allowance: Decimal
    """Worst case of one episode in actual dollars, with or without a cap; an unknown cost counts as this much."""


def settings_of(
    training: OrchestratorTraining, pools: Sequence[ExpertPool], *, find: FindFile, references: bool = True
) -> Settings:
    """Build all parts; SettingsError lists everything that prevents it.

    `references`: grade every task's own answer; this is done once, before anything is spent.
    """
    spec = training.spec
    problems = _unavailable(spec)
    limits = episode_limits(spec)
    try:
        catalog = build_catalog(pools)
        sampler = _sampler(spec, catalog)
    except CatalogError as error:
        problems.append(str(error))
        catalog, sampler = None, None
    try:
        tools = catalog.names if catalog is not None else None
        suite = build_suite(spec.tasks, open_uri=find, seed=spec.algorithm.seed, tools=tools, references=references)
        suites = () if catalog is None else _suites(spec, catalog, suite=suite, find=find, references=references)
    except (CatalogError, SourceError, SettingsError) as error:
        raise SettingsError("\n".join([*problems, str(error)])) from error
    if problems or sampler is None:
        raise SettingsError("\n".join(problems))
    preferences = None
    if spec.preferences is not None:
        preferences = TemplatePreferences(fraction=float(spec.preferences.fraction), seed=spec.algorithm.seed)
    instances = Instances(suite, sampler, limits, spec.algorithm.seed, preferences)
    kinds = suite.kinds.union(*(each.suite.kinds for each in suites))
    allowance = worst_case_usd(spec, pools, chat="Chat" in kinds)
    if problems := list(money_problems(spec, pools, allowance=allowance)):
        raise SettingsError("\n".join(problems))
    return Settings(
        instances=instances,
        rewarding=rewarding(spec),
        ledger=ledger_config(spec),
        step=step_config(spec),
        schedule=schedule_of(spec),
        warm_step=warm_step_config(spec),
        suites=suites,
        cap=spec.limits.max_spend_usd,
        allowance=allowance,
    )


def _unavailable(spec: OrchestratorTrainingSpec) -> list[str]:
    """Return an error for every feature that the YAML may ask for and that is not available yet."""
    said = []
    if is_plugin(objective := spec.algorithm.objective):
        try:
            load("toolorchestra.objectives", objective)
        except PluginError as error:
            said.append(f"spec.algorithm.objective: {error}")
    elif objective != "Clipped":
        said.append(f"spec.algorithm.objective: {objective} is not available yet; use Clipped")
    try:
        build_combiner(_reward_config(spec))
    except PluginError as error:
        said.append(f"spec.reward.combiner: {error}")
    if spec.preferences is not None and spec.preferences.uri is not None:
        said.append("spec.preferences.uri: pairs from a file are not available yet; leave it out for templates")
    if spec.warm_start is not None and spec.warm_start.source != "FormatTraces":
        said.append("spec.warmStart.source: traces from a file are not available yet; use FormatTraces")
    return said


def episode_limits(spec: OrchestratorTrainingSpec) -> EpisodeLimits:
    rollout = spec.rollout
    service = rollout.episode_budget.max_service_seconds
    return EpisodeLimits(
        max_turns=rollout.max_turns,
        max_prompt_tokens=rollout.max_prompt_tokens,
        max_response_tokens=rollout.max_response_tokens,
        max_usd=rollout.episode_budget.max_usd,
        max_service_seconds=None if service is None else float(service),
        timeout_seconds=float(rollout.episode_timeout_seconds),
    )


def worst_case_usd(spec: OrchestratorTrainingSpec, pools: Sequence[ExpertPool], *, chat: bool) -> Decimal:
    """Return the most that one episode can really cost, in dollars.

    That is its budget, or else the cost if every call goes to the most expensive expert at its limits (the baseline
    `cascade` may ask each expert once). `chat`: there are tasks of kind Chat, whose turns may make several calls at
    once. The policy runs on the training's own engines, so it costs nothing here.
    """
    if (budget := spec.rollout.episode_budget.max_usd) is not None:
        return budget
    limits = episode_limits(spec)
    calls = limits.max_turns * (limits.max_parallel_calls if chat else 1)
    return episode_usd([_worst_attempt(pool) for pool in pools], calls=calls)


def money_problems(spec: OrchestratorTrainingSpec, pools: Sequence[ExpertPool], *, allowance: Decimal) -> Iterator[str]:
    """Yield errors where the limits allow not a single group, or not a single call.

    `allowance`: worst case of one episode in dollars. A group is opened only if the cap has room for all its episodes.
    """
    size, cap, budget = spec.algorithm.group_size, spec.limits.max_spend_usd, spec.rollout.episode_budget.max_usd
    if cap is not None and size * allowance > cap:
        yield (
            f"spec.limits.maxSpendUSD: {cap} is less than one group may cost: {size} episodes of at most"
            f" ${allowance:.4g} each, ${size * allowance:.4g}, so no step could ever be made. Limit an episode"
            " (spec.rollout.episodeBudget.maxUSD, or fewer spec.rollout.maxTurns), or raise the cap"
        )
    cheapest = min((_least_attempt(pool) for pool in pools), default=Decimal(0))
    if budget is not None and budget < cheapest:
        yield (
            f"spec.rollout.episodeBudget.maxUSD: {budget} is too low for any call: even the shortest question to the"
            f" cheapest expert reserves ${cheapest:.4g}. Raise it, or lower a pool's spec.limits.maxOutputTokens"
        )


def beyond_budget(spec: OrchestratorTrainingSpec, pools: Sequence[ExpertPool]) -> Iterator[tuple[str, Decimal]]:
    """Yield the experts that the episode budget can never pay, each with what the shortest question to it reserves."""
    budget = spec.rollout.episode_budget.max_usd
    for pool in pools:
        if budget is not None and budget < (least := _least_attempt(pool)):
            yield pool.metadata.name, least


def _least_attempt(pool: ExpertPool) -> Decimal:
    return attempt_usd(price_of(pool.spec.price), prompt_bytes=1, max_output=pool.spec.limits.max_output_tokens)


def _worst_attempt(pool: ExpertPool) -> Decimal:
    limits = pool.spec.limits
    return attempt_usd(
        price_of(pool.spec.price),
        prompt_bytes=most_prompt_bytes(limits.max_input_tokens),
        max_output=limits.max_output_tokens,
    )


def _sampler(spec: OrchestratorTrainingSpec, catalog: Catalog, suite: SuiteSpec | None = None) -> ViewSampler:
    """Return the sampler of training instances, or of a suite with its own aliases and prices."""
    return build_sampler(catalog, spec.tools, policy_price=price_of(spec.model.price), suite=suite)


def _suites(
    spec: OrchestratorTrainingSpec, catalog: Catalog, *, suite: Suite, find: FindFile, references: bool
) -> tuple[EvaluationSuite, ...]:
    """Return the suites of the YAML, or the training's held-out tasks as the only suite."""
    if not spec.evaluation.suites:
        size = min(DEFAULT_SUITE_SIZE, suite.held_out_size)
        return (EvaluationSuite(DEFAULT_SUITE, size, suite, _sampler(spec, catalog)),) if size else ()
    found = []
    for wanted in spec.evaluation.suites:
        tasks = suite
        if wanted.tasks is not None:
            tasks = build_suite(
                wanted.tasks,
                open_uri=find,
                seed=spec.algorithm.seed,
                tools=catalog.names,
                references=references,
                evaluation=True,
            )
        if tasks.held_out_size < wanted.size:
            raise SettingsError(
                f"spec.evaluation.suites[{wanted.name}].size: {wanted.size} tasks are wanted, but only"
                f" {tasks.held_out_size} are held out: raise spec.tasks.heldOutFraction or the sources' size, or lower"
                " the size"
            )
        found.append(EvaluationSuite(wanted.name, wanted.size, tasks, _sampler(spec, catalog, wanted)))
    return tuple(found)


def rewarding(spec: OrchestratorTrainingSpec) -> Rewarding:
    filters = spec.algorithm.filters
    return Rewarding(_reward_config(spec), SampleFilters(filters.require_format, filters.require_answer))


def _reward_config(spec: OrchestratorTrainingSpec) -> RewardConfig:
    return reward_config(spec.model_dump(mode="json", by_alias=True, include={"reward", "algorithm"}))


def ledger_config(spec: OrchestratorTrainingSpec) -> LedgerConfig:
    algorithm = spec.algorithm
    return LedgerConfig(
        groups_per_step=algorithm.groups_per_step,
        group_size=algorithm.group_size,
        max_staleness=algorithm.max_staleness,
        on_stale=algorithm.on_stale,
        when_short=algorithm.filters.when_short,
    )


_ESTIMATORS: dict[str, KLEstimator] = {"K1": "k1", "K2": "k2", "K3": "k3", "HalfDeltaSquared": "half_delta_squared"}


def step_config(spec: OrchestratorTrainingSpec) -> StepConfig:
    a = spec.algorithm
    return StepConfig(
        lr=float(a.learning_rate),
        clip_low=float(a.clip.low),
        clip_high=float(a.clip.high),
        dual_clip=None if a.clip.dual is None else float(a.clip.dual),
        mask_band=None if a.mask is None else (float(a.mask.low), float(a.mask.high)),
        entropy_coefficient=float(a.entropy_coefficient),
        kl_coefficient=float(a.kl.coefficient),
        kl_estimator=_ESTIMATORS[a.kl.estimator],
        aggregation="token_mean" if a.aggregation == "TokenMean" else "sequence_mean",
        max_grad_norm=float(a.max_gradient_norm),
        weight_decay=float(a.weight_decay),
        objective=a.objective,
        token_budget=a.tokens_per_micro_batch,
    )


def schedule_of(spec: OrchestratorTrainingSpec) -> Schedule:
    a, schedule = spec.algorithm, spec.algorithm.learning_rate_schedule
    return Schedule(
        peak=float(a.learning_rate),
        steps=a.steps,
        warmup=schedule.warmup_steps,
        decay=schedule.decay,
        decay_steps=schedule.decay_steps,
        final=float(schedule.final_fraction),
    )


def warm_step_config(spec: OrchestratorTrainingSpec) -> StepConfig:
    a, warm = spec.algorithm, spec.warm_start
    rate = a.learning_rate if warm is None else warm.learning_rate
    return StepConfig(lr=float(rate), max_grad_norm=float(a.max_gradient_norm), token_budget=a.tokens_per_micro_batch)
