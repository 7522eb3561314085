"""The settings of a training's streams."""

from __future__ import annotations

from toolorchestra.bus.streams import StreamSettings
from toolorchestra.contract.streams import leases
from toolorchestra_operator.trainings.desired import Desired
from toolorchestra_operator.trainings.stream_marks import marks_of


def settings_of(desired: Desired) -> StreamSettings:
    """Return the settings; the leases cover every slot of every worker, and a few more."""
    rollout = desired.spec.rollout
    return StreamSettings(
        replicas=desired.stream_replicas,
        max_ack_pending=leases(workers=rollout.workers, concurrency=rollout.concurrency_per_worker),
        marks=marks_of(desired.names, cluster=desired.runtime.cluster),
    )
