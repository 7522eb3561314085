"""Results of the stages of an incarnation's start; each is complete when its stage returns."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from toolorchestra.bus.protocol import RolloutBus
from toolorchestra.controller.controller import Controller
from toolorchestra.controller.incarnation.evaluation import Evaluation
from toolorchestra.controller.incarnation.hardware import Hardware
from toolorchestra.controller.incarnation.recovered import RecoveredLedger
from toolorchestra.controller.wire import BusWire
from toolorchestra.engines.fleet import Engines
from toolorchestra.trainer.facade import AsyncTrainers
from toolorchestra.weights.checkpoint import Checkpoint, CheckpointStore


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The bus, and the checkpoint that the run starts from."""

    bus: RolloutBus
    store: CheckpointStore
    checkpoint: Checkpoint | None
    """None where the run is new."""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """The hardware, and the engines, which are starting."""

    hardware: Hardware
    engines: Engines


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The ledger and the wire: results are read, and those of evaluations are processed."""

    journalled: RecoveredLedger
    wire: BusWire
    evaluation: Evaluation
    ready: asyncio.Future[Controller]
    """Once it is set, the results of training are processed too."""


@dataclass(frozen=True, kw_only=True)
class Trainable:
    """The trainers, with the run's weights, and the controller, which has all its parts."""

    trainers: AsyncTrainers
    controller: Controller
