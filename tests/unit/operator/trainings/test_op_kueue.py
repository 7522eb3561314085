"""A training on KubeRay behind a queue of Kueue."""

from __future__ import annotations

import copy
from typing import Any

from support.cluster.kuberay_world import World
from toolorchestra.api.conditions import Reason
from toolorchestra_operator.trainings.kueue import quota

# ── Kueue ──────────────────────────────────────────────────────────────────────────────────────────────────────


def workload(**conditions: tuple[str, str]) -> dict[str, Any]:
    listed = [{"type": kind, "status": status, "message": said} for kind, (status, said) in conditions.items()]
    return {"metadata": {"name": "rayjob-tiny-1"}, "status": {"conditions": listed}}


def queued() -> World:
    world = World(queueName="research")
    world.workloads = ()
    world.settle()
    return world


def test_nothing_starts_before_the_queue_admits_it() -> None:
    world = queued()
    assert world.job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "research"
    assert world.job["spec"]["suspend"] is True
    assert world.workers() == 0
    assert world.says("QuotaReserved") == ("False", "QuotaPending", "queue research: Kueue has not seen it yet")
    world.workloads = (workload(QuotaReserved=("False", "insufficient quota for nvidia.com/gpu")),)
    world.is_(jobDeploymentStatus="Suspended")
    world.passes(100_000)
    world.settle()
    assert world.says("QuotaReserved")[2] == "queue research: insufficient quota for nvidia.com/gpu"
    assert world.says("ClusterReady")[:2] == ("False", "ClusterStarting")
    assert world.says("Failed") == ("", "", ""), "the wait for quota is not the start's"
    assert world.workers() == 0


def test_what_the_queue_admits_starts_and_nobody_touches_its_rayjob() -> None:
    world = queued()
    world.suspends(False)
    live = world.objects[world.ref].live
    assert live is not None
    head = live["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    head["nodeSelector"] = {"flavour": "a100"}
    injected = copy.deepcopy(live["spec"])
    world.is_(jobDeploymentStatus="Initializing")
    for _ in range(2):
        world.settle()
        assert world.job["spec"] == injected
    assert world.says("QuotaReserved")[:2] == ("True", "QuotaReserved")
    assert world.workers() == 2
    world.comes_up()
    world.settle()
    assert world.says("Running")[0] == "True"


def test_preemption_is_waited_for_and_never_counted() -> None:
    world = queued()
    world.suspends(False)
    world.comes_up()
    world.settle()
    world.suspends(True)
    world.workloads = (workload(Evicted=("True", "Preempted to accommodate a workload"), Admitted=("False", "")),)
    world.settle()
    assert world.workers() == 0, "at once: their engines are going"
    assert world.says("QuotaReserved")[:2] == ("False", "Preempted")
    assert "Preempted to accommodate" in world.says("QuotaReserved")[2]
    assert world.says("Running")[:2] == ("False", "Preempted")
    world.progress |= {"state": "Cancelled"}
    for deployment in ("Suspending", "Suspended"):
        world.is_(jobDeploymentStatus=deployment)
        world.passes(100_000)
        world.settle()
    assert (world.attempt, world.parent["status"]["restarts"]) == (1, 0), "it keeps its place in the queue"
    world.suspends(False)
    world.settle()
    assert world.says("Failed") == ("", "", ""), "the start that counts is that of this life"
    world.is_(jobDeploymentStatus="Initializing")
    world.settle()
    assert world.workers() == 2
    world.comes_up()
    world.settle()
    assert world.says("Running")[0] == "True"


def test_a_queue_that_nobody_looks_after_is_said() -> None:
    world = queued()
    world.passes(61)
    world.settle()
    status, reason, message = world.says("QuotaReserved")
    assert (status, reason) == ("Unknown", "QuotaUnknown")
    assert "no Workload for RayJob tiny-1 within 60 seconds" in message
    world.workloads = None
    world.settle()
    status, reason, message = world.says("QuotaReserved")
    assert (status, reason) == ("Unknown", "QuotaUnknown")
    assert "no Kueue" in message
    assert world.workers() == 0


def test_a_queue_that_comes_later_takes_it_up() -> None:
    world = World(queueName="research")
    world.settle()
    assert world.says("QuotaReserved")[:2] == ("Unknown", "QuotaUnknown")
    world.workloads = (workload(QuotaReserved=("True", "Quota reserved in ClusterQueue gpus")),)
    world.settle()
    assert world.says("QuotaReserved")[:2] == ("False", "QuotaPending"), "the flag decides: it is not let go on yet"
    world.suspends(False)
    world.settle()
    assert world.says("QuotaReserved")[0] == "True"


def test_suspended_by_hand_without_a_queue() -> None:
    world = World()
    world.settle()
    world.comes_up()
    world.settle()
    world.suspends(True)
    world.settle()
    assert world.workers() == 0
    assert world.says("QuotaReserved")[:2] == ("True", "NoQueue")
    assert world.says("Running") == ("False", "ClusterStarting", "its RayJob is suspended")


def test_suspending_a_queued_training_takes_it_out_of_the_queue() -> None:
    world = queued()
    world.parent["spec"]["suspend"] = True
    world.settle()
    assert not [kind for kind in world.kinds() if kind.startswith("RayJob")]
    assert world.says("QuotaReserved") == ("False", "QuotaPending", "queue research: nothing is asked for")


def test_quota_before_there_is_a_rayjob() -> None:
    assert quota("q", None, (), ran=False, now=World().now).aspect[:2] == ("False", Reason.QUOTA_PENDING)
