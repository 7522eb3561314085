"""A trainer that is gone ends an attempt. It counts against `backoffLimit` only where its program is to blame."""

from __future__ import annotations

from typing import Any

import pytest

from toolorchestra.contract.exit_status import TRAINER_LOST
from toolorchestra_operator.trainings import builtin, cluster_state
from toolorchestra_operator.trainings.names import TrainingNames

NAMES = TrainingNames.of(
    {"metadata": {"name": "tiny", "namespace": "default", "uid": "0a1b2c3d-0000-4000-8000-000000000000"}}
)


def world(code: int, *, lost: int) -> cluster_state.ClusterState:
    """The head has ended with `code`, after `lost` pods of trainers were taken away."""
    head, engines, trainers, _ = builtin.refs(NAMES, 1)
    status: dict[str, Any] = {"failed": lost} if lost else {"ready": 1}
    objects: dict[Any, Any] = {
        head: {"metadata": {"uid": "head"}, "status": {"conditions": [{"type": "Failed", "status": "True"}]}},
        engines: {"status": {"ready": 1}},
        trainers: {"status": status},
    }
    ended = {"name": "head", "state": {"terminated": {"exitCode": code, "message": "a trainer died"}}}
    owner = {"kind": "Job", "name": "tiny-1-head", "uid": "head", "controller": True}
    pod = {"metadata": {"name": "h", "ownerReferences": [owner]}, "status": {"containerStatuses": [ended]}}
    return builtin.state(NAMES, 1, objects=objects, pods=[pod])


@pytest.mark.parametrize(
    ("code", "lost", "life"),
    [(TRAINER_LOST, 1, "Stopped"), (TRAINER_LOST, 0, "Failed"), (1, 1, "Failed"), (0, 1, "Succeeded")],
)
def test_a_pod_that_was_taken_away_is_nobodys_failure(code: int, lost: int, life: str) -> None:
    state = world(code, lost=lost)
    assert state.life == life
    if code:
        assert state.message == "a trainer died"
