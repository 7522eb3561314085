"""The trainer group: one Ray actor per rank in a placement group, each with a `Trainer`. Calls block.

Every rank gets the whole batch (one object in Ray's store) and takes its own share. If a rank dies, the group is lost:
the caller starts a new group and loads the last checkpoint.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, GetTimeoutError, RayTaskError
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from toolorchestra.contract.ray import TRAINER_ROLE
from toolorchestra.gpus.rooms import at
from toolorchestra.plugins import PluginError
from toolorchestra.trainer.batch import NonFiniteStep
from toolorchestra.trainer.errors import TrainerError
from toolorchestra.trainer.model import ModelError
from toolorchestra.trainer.trainer import Trainer, TrainerConfig
from toolorchestra.weights.snapshot import NoRoom

P = ParamSpec("P")
T = TypeVar("T")

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
PING_SECONDS = 5.0
EXPECTED = (ModelError, NonFiniteStep, NoRoom, PluginError)
"""Errors about a model, a batch or a disk, while all ranks are alive. They are raised here unchanged."""


class TrainerLost(TrainerError, RuntimeError):
    """A trainer process is lost, and with it the step. Start a new group from the last checkpoint."""


class TrainersNotPlaced(TrainerError, TimeoutError):
    """The cluster had no room for all trainers in time; the message says what was asked for."""


class TrainerActor:
    """One rank: the Ray actor around a `Trainer`."""

    def __init__(self, rank: int, world: int, config: TrainerConfig) -> None:
        self.rank, self.world, self.config = rank, world, config
        self.trainer: Trainer | None = None

    def address(self) -> str:
        """Return host:port at which rank 0 can gather the group."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            host = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
            return f"{host}:{probe.getsockname()[1]}"

    def ping(self) -> None:
        """Return while the process is alive and no other call runs."""

    def connect(self, address: str) -> None:
        """Join the group and load the model."""
        import torch
        import torch.distributed as dist

        if self.world > 1:
            cuda = self.config.device == "cuda" or (self.config.device is None and torch.cuda.is_available())
            dist.init_process_group(
                "nccl" if cuda else "gloo",
                init_method=f"tcp://{address}",
                rank=self.rank,
                world_size=self.world,
                timeout=COLLECTIVE_TIMEOUT,
            )
        self.trainer = Trainer(self.config)

    def call(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Call the function with this rank's trainer and return its result."""
        if self.trainer is None:
            raise RuntimeError("connect() first")
        return function(self.trainer, *args, **kwargs)


class TrainerGroup:
    """A group of `size` ranks. Ray must be initialised. `run` blocks, and raises TrainerLost if a rank is lost."""

    def __init__(
        self,
        config: TrainerConfig,
        *,
        size: int = 1,
        cpus_per_trainer: float = 1,
        gpus_per_trainer: float = 0,
        by_role: bool = False,
        places: PlacementGroup | None = None,
        ready_timeout: float = 300.0,
    ) -> None:
        """`places`: the trainers share the GPUs of these bundles with engines (rooms.py). TimeoutError if the group is
        not ready within `ready_timeout` seconds."""
        bundle: dict[str, float] = {"CPU": cpus_per_trainer}
        if gpus_per_trainer:
            bundle["GPU"] = gpus_per_trainer
        if by_role:
            bundle[TRAINER_ROLE] = 1
        self.size = size
        self._own_placement = places is None
        self._placement: PlacementGroup = places or placement_group([bundle] * size, strategy="PACK")
        if not self._placement.wait(ready_timeout):
            self._leave()
            raise TrainersNotPlaced(f"no room for {size} trainers of {bundle} within {ready_timeout:g} s")
        actor: Any = ray.remote(TrainerActor)
        self._actors: list[Any] = [
            actor.options(
                num_cpus=cpus_per_trainer,
                num_gpus=gpus_per_trainer,
                resources={TRAINER_ROLE: 1} if by_role else None,
                max_restarts=0,
                scheduling_strategy=at(self._placement, rank),
            ).remote(rank, size, config)
            for rank in range(size)
        ]
        address = self._get([self._actors[0].address.remote()])[0]
        self._get([actor.connect.remote(address) for actor in self._actors], timeout=ready_timeout)

    def _get(self, references: list[Any], *, timeout: float | None = None) -> list[Any]:
        try:
            return list(ray.get(references, timeout=timeout))
        except (ActorDiedError, ActorUnavailableError) as error:
            raise TrainerLost(f"a trainer process is lost: {error}") from error
        except RayTaskError as error:
            if isinstance(error.cause, EXPECTED):
                raise error.cause from error
            # If a rank dies, the collectives of the others fail first. So ask whether all processes are alive.
            if self._lost():
                raise TrainerLost(f"a trainer process is lost; another one reports: {error}") from error
            raise

    def _lost(self) -> bool:
        try:
            ray.get([actor.ping.remote() for actor in self._actors], timeout=PING_SECONDS)
        except (ActorDiedError, ActorUnavailableError):
            return True
        except GetTimeoutError:
            return False  # busy, so alive
        return False

    def run(self, function: Callable[Concatenate[Trainer, P], T], *args: P.args, **kwargs: P.kwargs) -> list[T]:
        """Call a method of Trainer, or a function of one, on every rank. Return the results by rank.

        A batch (a list or tuple) is put into Ray's store once, for all ranks.
        """
        shared = [ray.put(tuple(one)) if isinstance(one, list | tuple) else one for one in args]
        return self._get([actor.call.remote(function, *shared, **kwargs) for actor in self._actors])

    def close(self) -> None:
        """End the processes and release the placement group."""
        for actor in self._actors:
            ray.kill(actor)
        self._leave()

    def _leave(self) -> None:
        if self._own_placement:
            remove_placement_group(self._placement)
