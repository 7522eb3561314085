"""Versions of the policy: every step's weights written by the trainers and put in service on the engines."""

from __future__ import annotations

import time
from dataclasses import dataclass

from toolorchestra.controller.ports import EngineGroup, Trainers
from toolorchestra.policy.version import PolicyVersion
from toolorchestra.weights.place import SnapshotPlace
from toolorchestra.weights.snapshot import Snapshot


@dataclass
class Versions:
    """Of one incarnation; says of the last one how long it took."""

    trainers: Trainers
    engines: EngineGroup
    place: SnapshotPlace
    snapshot_seconds: float = 0.0
    """For which the trainers wrote its weights."""
    pause_seconds: float = 0.0
    """For which the engines took no requests, because of its weights."""

    async def bring(self, step: int, *, incarnation: int, adopt: bool = False) -> Snapshot:
        """Write the snapshot of the trainers' weights and put it in service."""
        version, previous = str(PolicyVersion(incarnation, step)), str(PolicyVersion(incarnation, step - 1))
        began = time.monotonic()
        snapshot = await self.place.write(
            version, keep=[previous], snapshot=lambda folder: self.trainers.snapshot(folder, version=version)
        )
        written = time.monotonic()
        await self.engines.load(snapshot, adopt=adopt)
        self.snapshot_seconds, self.pause_seconds = written - began, time.monotonic() - written
        return snapshot
