"""Puts each version of the policy in service: trainers write the weights, engines load them."""

from __future__ import annotations

import time
from dataclasses import dataclass

from toolorchestra.controller.ports import EngineGroup, Trainers
from toolorchestra.policy.version import PolicyVersion
from toolorchestra.weights.place import SnapshotPlace
from toolorchestra.weights.snapshot import Snapshot


@dataclass
class Versions:
    """Puts the versions of one incarnation in service, and keeps the times of the last one."""

    trainers: Trainers
    engines: EngineGroup
    place: SnapshotPlace
    snapshot_seconds: float = 0.0
    """Time that the trainers needed to write the last snapshot."""
    pause_seconds: float = 0.0
    """Time that the engines needed to load it, in which they take no requests."""

    async def bring(self, step: int, *, incarnation: int, adopt: bool = False) -> Snapshot:
        """Write a snapshot of the trainers' weights and put it in service; the previous one is kept."""
        version, previous = str(PolicyVersion(incarnation, step)), str(PolicyVersion(incarnation, step - 1))
        began = time.monotonic()
        snapshot = await self.place.write(
            version, keep=[previous], snapshot=lambda folder: self.trainers.snapshot(folder, version=version)
        )
        written = time.monotonic()
        await self.engines.load(snapshot, adopt=adopt)
        self.snapshot_seconds, self.pause_seconds = written - began, time.monotonic() - written
        return snapshot
