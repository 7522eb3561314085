"""OrchestratorTraining: train one policy to orchestrate experts and tools.

Read it as `training.metadata.name` and `training.spec.{model, init_from, warm_start, tasks, models, tools, preferences,
reward, algorithm, rollout, limits, ray, messaging, storage, checkpoint, export, evaluation, telemetry, suspend, …}`.
The attributes of each part are documented in its module: `task_sources`, `toolset`, `reward`, `algorithm`, `rollout`,
`cluster`, `suite`. Invariant: a field is immutable where a running attempt could not apply a change
(docs/immutability.md).
"""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from pydantic import Field

from toolorchestra.api.algorithm import Algorithm, WarmStart
from toolorchestra.api.base import LIST_MAP, PARENT, ApiVersion, Model
from toolorchestra.api.cluster import Checkpoint, Export, Limits, Messaging, Ray, Storage, Telemetry
from toolorchestra.api.metadata import ObjectMeta
from toolorchestra.api.model import ModelSource, TokenPrice
from toolorchestra.api.resource import Resource
from toolorchestra.api.reward import Preferences, Reward
from toolorchestra.api.rollout import Rollout
from toolorchestra.api.rules import NEW_TRAINING, immutable, rule, ruled, union
from toolorchestra.api.scalars import (
    Bool,
    Count,
    ModelURI,
    Name,
    ObjectName,
    Replicas,
    Seconds,
    SecondsOrZero,
    Word,
)
from toolorchestra.api.status import OrchestratorTrainingStatus
from toolorchestra.api.suite import Suite
from toolorchestra.api.task_sources import Tasks
from toolorchestra.api.toolset import Tools


class PolicyModel(ModelSource):
    """The orchestrator: the small model that is trained."""

    price: TokenPrice
    """Price of its own tokens in US dollars; they count in every episode's cost."""
    head_precision: Literal["Compute", "Float32"] = "Compute"
    """Precision of the output head in trainers and engines. Compute: as the rest, bfloat16 on GPUs. Float32: their
    probabilities differ less, at the cost of memory and time."""


class EarlierTraining(Model):
    """A checkpoint of another training in the same namespace."""

    name: Name
    """Name of the training."""
    checkpoint: Word = "best"
    """`best`, `last`, or a step number."""


class InitFrom(Model):
    """Weights to start from instead of the model's own."""

    model_config = ruled(union(Training="training", URI="uri"))

    type: Literal["Training", "URI"]
    """Another training, or a folder of weights."""
    training: EarlierTraining | None = None
    """With type Training."""
    uri: ModelURI | None = None
    """With type URI."""


class PoolRef(Model):
    """A pool by name."""

    pool: Name
    """Name of the ExpertPool."""


class AuxiliaryModels(Model):
    """Models that the training uses but that are not its experts; their cost is counted separately."""

    judge: PoolRef | None = None
    """Grades free-form answers; absent: exact match only."""
    user_simulator: PoolRef | None = None
    """Plays the user in function-calling tasks."""


class EvaluationSchedule(Model):
    """Evaluation during training, on a pinned policy version."""

    every_steps: Count = 50
    """Steps between evaluations; the initial and the last policy are always evaluated."""
    suites: tuple[Suite, ...] = Field(default=(), max_length=32, json_schema_extra=LIST_MAP)
    """Suites; empty: one, named held-out, of the held-out tasks."""
    baselines: Bool = True
    """Evaluate the baselines too: random, cheapest, best single expert, always each expert, cascade, oracle."""


class OrchestratorTrainingSpec(Model):
    """The model, tasks, tools, algorithm and infrastructure of a training."""

    model_config = ruled(
        immutable(
            "model",
            "initFrom",
            "warmStart",
            "tasks",
            "models",
            "tools",
            "preferences",
            "reward",
            "algorithm",
            "messaging",
            "checkpoint",
            "export",
            "evaluation",
            "telemetry",
            "queueName",
            "priorityClassName",
            why=NEW_TRAINING,
        ),
        immutable("ray", why="suspend the training first; the next attempt uses the change", unless="oldSelf.suspend"),
        rule(
            "self.algorithm.maxStaleness > 0 || self.algorithm.onStale == 'Wait'",
            "with maxStaleness 0 nothing becomes stale, so onStale must be Wait",
            check=lambda s: s["algorithm"]["maxStaleness"] > 0 or s["algorithm"]["onStale"] == "Wait",
            at="algorithm.onStale",
            defaulted=("algorithm",),
        ),
        rule(
            "!has(self.tasks.heldOutFraction) || double(self.tasks.heldOutFraction) < 1.0",
            "heldOutFraction 1 holds out every task, so none is left to train on: lower it",
            check=lambda s: Decimal(s["tasks"]["heldOutFraction"]) < 1,
            at="tasks.heldOutFraction",
        ),
        rule(
            "!has(self.activeDeadlineSeconds) || self.activeDeadlineSeconds > self.startDeadlineSeconds",
            "activeDeadlineSeconds must be longer than startDeadlineSeconds",
            check=lambda s: "activeDeadlineSeconds" not in s or s["activeDeadlineSeconds"] > s["startDeadlineSeconds"],
            at="activeDeadlineSeconds",
            defaulted=("startDeadlineSeconds",),
        ),
    )

    model: PolicyModel
    """The orchestrator: the small model that is trained."""
    init_from: InitFrom | None = None
    """Checkpoint to start from; absent: the model's own weights."""
    warm_start: WarmStart | None = None
    """Supervised steps before the reinforcement learning, to teach the format; absent: none."""
    tasks: Tasks
    """Tasks with graders: their sources, and which share is held out."""
    models: AuxiliaryModels = Field(default_factory=AuxiliaryModels, json_schema_extra=PARENT)
    """Models that grade answers or play the user; they are not experts, and their cost is counted separately."""
    tools: Tools
    """What an episode may call: experts (ExpertPools) and functions."""
    preferences: Preferences | None = None
    """Instructions such as "keep it cheap", each with its own weights; absent: none."""
    reward: Reward = Field(default_factory=Reward, json_schema_extra=PARENT)
    """How correctness, cost and latency become one reward per episode."""
    algorithm: Algorithm = Field(default_factory=Algorithm, json_schema_extra=PARENT)
    """The reinforcement learning: steps, groups, learning rate, loss, filters, staleness."""
    rollout: Rollout = Field(default_factory=Rollout, json_schema_extra=PARENT)
    """How episodes are run: workers, concurrency, limits of turns, tokens, time and money."""
    limits: Limits = Field(default_factory=Limits, json_schema_extra=PARENT)
    """Limits of the whole run, such as what it may spend."""
    ray: Ray = Field(default_factory=Ray, json_schema_extra=PARENT)
    """The Ray cluster: head, trainers, engines, their resources and images."""
    messaging: Messaging = Field(default_factory=Messaging, json_schema_extra=PARENT)
    """The NATS server; absent: the chart's."""
    storage: Storage = Field(default_factory=Storage, json_schema_extra=PARENT)
    """The volume for checkpoints, journal, logs and the finished model."""
    checkpoint: Checkpoint = Field(default_factory=Checkpoint, json_schema_extra=PARENT)
    """How often checkpoints are written, and how many are kept."""
    export: Export | None = None
    """Where to export the finished model; absent: it stays in storage."""
    evaluation: EvaluationSchedule = Field(default_factory=EvaluationSchedule, json_schema_extra=PARENT)
    """How often, on which suites, and against which baselines the policy is evaluated."""
    telemetry: Telemetry = Field(default_factory=Telemetry, json_schema_extra=PARENT)
    """OpenTelemetry traces: where to send them, and how many."""
    suspend: Bool = False
    """true: write a checkpoint and release all compute; false again: continue from there."""
    start_deadline_seconds: Seconds = 1800
    """Most seconds from an attempt's start to its first evaluation or step, with downloads and warm start."""
    active_deadline_seconds: Seconds | None = None
    """Most seconds since admission, with suspended time, such as 86400 (a day); absent: no limit."""
    backoff_limit: Replicas = 3
    """Most restarts after failures of the program; then the training fails. An evicted or lost head does not count."""
    keep_failed_seconds: SecondsOrZero = 600
    """Seconds that the pods of a failed training are kept for debugging, with their GPUs."""
    ttl_seconds_after_finished: SecondsOrZero = 86400
    """Seconds after which a finished training's objects are deleted; the resource, its status and its volume stay."""
    queue_name: ObjectName | None = None
    """Name of a Kueue LocalQueue in the namespace; absent: the training does not wait for quota."""
    priority_class_name: ObjectName | None = None
    """PriorityClass of all its pods."""


class OrchestratorTraining(Resource):
    """Trains a small model with reinforcement learning to choose between experts and tools."""

    api_version: ApiVersion
    kind: Literal["OrchestratorTraining"]
    metadata: ObjectMeta
    spec: OrchestratorTrainingSpec
    """The model, tasks, tools, algorithm and infrastructure."""
    status: OrchestratorTrainingStatus | None = None
    """Progress, written by the operator: step, metrics, spending, conditions."""
