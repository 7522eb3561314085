"""The settings of a training's streams."""

from __future__ import annotations

from toolorchestra.bus.streams import StreamSettings
from toolorchestra_operator.trainings.desired import Desired
from toolorchestra_operator.trainings.stream_marks import marks_of

SLACK = 1.2
LEAST_PENDING = 16


def settings_of(desired: Desired) -> StreamSettings:
    """Leased at once: every slot of every worker, and a little more."""
    rollout = desired.spec.rollout
    slots = rollout.workers * rollout.concurrency_per_worker
    return StreamSettings(
        replicas=desired.stream_replicas,
        max_ack_pending=max(LEAST_PENDING, int(slots * SLACK)),
        marks=marks_of(desired.names, cluster=desired.runtime.cluster),
    )
