"""The functions that make the parts of an incarnation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from toolorchestra.bus.nats import NatsBus
from toolorchestra.bus.protocol import RolloutBus
from toolorchestra.controller.incarnation.assignment import Assignment
from toolorchestra.controller.incarnation.engines import start_engines
from toolorchestra.controller.incarnation.evaluation import Evaluation, evaluation_of
from toolorchestra.controller.incarnation.hardware import Hardware
from toolorchestra.controller.incarnation.model_check import check_model
from toolorchestra.controller.incarnation.recovered import RecoveredLedger, open_ledger
from toolorchestra.controller.incarnation.trainers import start_trainers
from toolorchestra.engines.fleet import Engines
from toolorchestra.trainer.facade import AsyncTrainers
from toolorchestra.weights.checkpoint import Checkpoint, CheckpointStore


@dataclass(frozen=True, kw_only=True)
class Makers:
    """The real functions. Tests replace those that need a model, NATS, Ray or vLLM."""

    check_model: Callable[[Assignment], None] = check_model
    connect: Callable[..., Awaitable[RolloutBus]] = NatsBus.connect
    start_engines: Callable[[Assignment, Hardware, RolloutBus], Engines] = start_engines
    open_ledger: Callable[[Assignment, Checkpoint | None], RecoveredLedger] = open_ledger
    evaluation_of: Callable[..., Evaluation] = evaluation_of
    start_trainers: Callable[[Assignment, Hardware, CheckpointStore], Awaitable[AsyncTrainers]] = start_trainers
