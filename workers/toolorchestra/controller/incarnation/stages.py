"""What the stages of an incarnation's start make, each complete when it is returned."""

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
    """The bus, and where the run stands."""

    bus: RolloutBus
    store: CheckpointStore
    checkpoint: Checkpoint | None
    """None: the run is fresh."""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """The engines come up from here on."""

    hardware: Hardware
    engines: Engines


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Results are read, and evaluation's are taken."""

    journalled: RecoveredLedger
    wire: BusWire
    evaluation: Evaluation
    ready: asyncio.Future[Controller]
    """Given the controller, training's results are taken too."""


@dataclass(frozen=True, kw_only=True)
class Trainable:
    """The trainers have the run's weights, and the controller has everything that it drives."""

    trainers: AsyncTrainers
    controller: Controller
