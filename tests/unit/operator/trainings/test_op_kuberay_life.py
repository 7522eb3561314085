"""A training on KubeRay from its start to every ending."""

from __future__ import annotations

from dataclasses import replace

import pytest

from support.cluster.kuberay_world import RAY_JOB_1, World
from support.cluster.training_world import KEPT
from toolorchestra_operator.kubernetes.manifest import Ref

# ── its life ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_it_runs_and_completes() -> None:
    world = World()
    world.settle()
    assert world.says("ClusterReady") == ("False", "ClusterStarting", "KubeRay has not taken it up")
    assert world.says("QuotaReserved")[:2] == ("True", "NoQueue")
    assert world.workers() == 2
    world.comes_up()
    world.settle()
    assert world.says("ClusterReady")[0] == world.says("Running")[0] == "True"
    before = world.writes
    for _ in range(3):
        world.passes(300)
        assert world.plan().empty
    assert world.writes == before
    world.driver_ends(0)
    world.settle()
    assert world.says("Complete")[:2] == ("True", "StepsDone")
    assert RAY_JOB_1 not in world.kinds(), "GPUs are given back at once"
    assert "Secret tiny-ray" in world.kinds()
    world.passes(86_401)
    world.settle()
    assert world.kinds() == KEPT
    assert world.deleted.index(Ref("v1", "Secret", "default", "tiny-ray")) == len(world.deleted) - 1


def test_a_failed_program_is_counted() -> None:
    world = World(backoffLimit=1)
    world.settle()
    world.comes_up()
    world.driver_ends(1, "ValueError: boom")
    world.settle()
    assert (world.attempt, world.parent["status"]["restarts"]) == (2, 1)
    assert {"RayJob tiny-2", "ConfigMap tiny-2"} <= world.kinds()
    assert RAY_JOB_1 not in world.kinds()
    world.comes_up()
    world.driver_ends(1, "ValueError: boom")
    world.settle()
    assert world.says("Failed")[:2] == ("True", "BackoffLimitExceeded")
    assert world.says("Failed")[2].endswith("ValueError: boom")
    assert "RayJob tiny-2" in world.kinds(), "a failed cluster stays for a look"
    world.passes(601)
    world.settle()
    assert "RayJob tiny-2" not in world.kinds()


@pytest.mark.parametrize(
    "status",
    [
        {"jobStatus": "RUNNING", "reason": "JobStatusCheckTimeoutExceeded"},
        {"jobStatus": "FAILED", "reason": "AppFailed", "message": "… failed with exit code 130. No logs available."},
    ],
)
def test_a_lost_head_and_a_preempted_one_are_nobodys_failure(status: dict[str, str]) -> None:
    world = World(backoffLimit=0)
    world.settle()
    world.comes_up()
    world.is_(jobDeploymentStatus="Failed", **status)
    world.settle()
    assert (world.attempt, world.parent["status"]["restarts"]) == (2, 0)


def test_the_next_attempt_waits_for_the_last_head() -> None:
    world = World()
    world.settle()
    world.comes_up()
    labels = {"app.kubernetes.io/component": "head", "toolorchestra.dev/attempt": "1"}
    world.pods = [{"metadata": {"name": "tiny-1-x-head", "labels": labels}, "status": {"phase": "Running"}}]
    world.driver_ends(1)
    world.settle()
    assert RAY_JOB_1 not in world.kinds()
    assert "RayJob tiny-2" not in world.kinds()
    assert "tiny-1-x-head" in world.says("ClusterReady")[2]
    world.pods = []
    world.settle()
    assert "RayJob tiny-2" in world.kinds()


def test_a_paused_run_waits_for_a_change_of_its_spec() -> None:
    world = World(limits={"maxSpendUSD": "1"})
    world.settle()
    world.comes_up()
    world.progress |= {"state": "Paused", "reason": "SpendCapReached", "message": "the spend cap is reached"}
    world.driver_ends(75, "the spend cap is reached")
    world.settle()
    assert world.says("Running") == ("False", "SpendCapReached", "the spend cap is reached")
    assert world.attempt == 1
    world.parent["spec"]["limits"] = {"maxSpendUSD": "2"}
    world.settle()
    assert (world.attempt, world.parent["status"]["restarts"]) == (2, 0)


def test_a_cluster_that_does_not_come_up_gives_everything_back() -> None:
    world = World(startDeadlineSeconds=100, keepFailedSeconds=0)
    world.settle()
    world.is_(jobDeploymentStatus="Initializing")
    scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPU"}
    world.pods = [{"metadata": {"name": "tiny-1-trainers-x"}, "status": {"conditions": [scheduled]}}]
    world.settle()
    assert world.says("ClusterReady") == ("False", "Unschedulable", "pod tiny-1-trainers-x: no GPU")
    world.passes(101)
    world.settle()
    assert world.says("Failed")[1] == "StartDeadlineExceeded"
    assert "no GPU" in world.says("Failed")[2]
    assert not {kind for kind in world.kinds() if kind.startswith(("RayJob", "Deployment"))}


def test_suspending_gives_compute_back() -> None:
    world = World()
    world.settle()
    world.comes_up()
    world.settle()
    world.parent["spec"]["suspend"] = True
    world.settle()
    assert world.kinds() == KEPT | {"Secret tiny-ray"}
    world.parent["spec"]["suspend"] = False
    world.settle()
    assert {"RayJob tiny-2", "ConfigMap tiny-2"} <= world.kinds()


def test_the_rayjob_goes_before_its_token() -> None:
    """KubeRay's operator lets go of a RayJob only while it can read the token, which goes with the training."""
    world = World()
    world.settle()
    world.comes_up()
    live = world.objects[world.ref].live
    assert live is not None
    world.parent["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:10Z"
    world.carry_out(world.plan())
    assert RAY_JOB_1 not in world.kinds()
    assert world.parent["metadata"]["finalizers"], "the training stays until the RayJob is gone"
    world.settle()
    assert (world.streams, world.parent["metadata"]["finalizers"]) == (set(), [])


def test_a_rayjob_that_does_not_go_holds_nothing_up_for_ever() -> None:
    world = World()
    world.settle()
    live = world.objects[world.ref].live
    assert live is not None
    live["metadata"]["deletionTimestamp"] = world.parent["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    plan = world.plan()
    assert plan.actions == ()
    assert plan.requeue_after is not None
    world.passes(301)
    world.settle()
    assert world.parent["metadata"]["finalizers"] == []
    assert world.kinds() == {RAY_JOB_1, "PersistentVolumeClaim tiny-storage"}, "nor is the rest left to a collector"


def test_the_token_stays_for_the_rayjob_though_no_nats_is_known_any_more() -> None:
    world = World()
    world.settle()
    live = world.objects[world.ref].live
    assert live is not None
    live["metadata"]["deletionTimestamp"] = world.parent["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    world.runtime = replace(world.runtime, nats_url=None)
    assert world.plan().actions == ()
