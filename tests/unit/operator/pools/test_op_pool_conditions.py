"""Every reason that a pool can give, and the world that yields it; what heals, and what is an event."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support.cluster.pool_world import GATE, GPU, PoolWorld, endpoint_pool, pod, vllm_pool, waiting
from toolorchestra.api.conditions import Reason
from toolorchestra_operator.planning.needs import Missing
from toolorchestra_operator.planning.plan import Emit

Said = dict[str, tuple[str, str]]


def serving(ready: int = 1, *, of: int = 1, **vllm: Any) -> PoolWorld:
    """A VLLM pool that is rolled out and answers."""
    world = PoolWorld(vllm_pool(replicas=of, **vllm))
    world.settle()
    world.deployment_status(ready=ready, replicas=of)
    if ready:
        world.answers()
    world.settle()
    return world


def starting(*pods: dict[str, Any]) -> PoolWorld:
    """A VLLM pool whose first replica is not up."""
    world = PoolWorld(vllm_pool())
    world.settle()
    world.deployment_status(ready=0, replicas=1, reason="ReplicaSetUpdated")
    world.pods = list(pods)
    return world


def lacking(reason: Reason) -> PoolWorld:
    world = PoolWorld(vllm_pool())
    world.missing = (Missing(reason, "spec.x: there is none: make it"),)
    return world


def answering(reason: Reason, message: str = "") -> PoolWorld:
    world = PoolWorld(endpoint_pool())
    world.answers(reason, message)
    return world


def unschedulable() -> dict[str, Any]:
    return {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes: no GPU"}


def gated() -> dict[str, Any]:
    found = pod(conditions=[{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}])
    return {**found, "spec": {"schedulingGates": [GATE]}}


def scaled_to_zero() -> PoolWorld:
    return PoolWorld(vllm_pool(replicas=0))


def stuck() -> PoolWorld:
    world = starting(pod(**waiting("ErrImagePull", "no such manifest")))
    world.deployment_status(ready=0, replicas=1, reason="ProgressDeadlineExceeded")
    return world


def refused_pods() -> PoolWorld:
    world = starting()
    failure = {"type": "ReplicaFailure", "status": "True", "message": "violates PodSecurity"}
    world.set_status(world.names.deployment_ref, {"conditions": [failure]})
    return world


def unreadable() -> PoolWorld:
    world = PoolWorld(vllm_pool())
    world.parent["spec"]["vllm"]["tensorParallelSize"] = 0
    return world


WORLDS: dict[str, tuple[Callable[[], PoolWorld], Said]] = {
    "serving": (
        serving,
        {
            "Accepted": ("True", "Accepted"),
            "Progressing": ("False", "RolledOut"),
            "Available": ("True", "MinimumAvailable"),
            "Degraded": ("False", "AllReplicasReady"),
            "Routable": ("True", "ProbeAnswered"),
            "Ready": ("True", "Ready"),
        },
    ),
    "just made": (
        lambda: PoolWorld(vllm_pool()),
        {
            "Progressing": ("True", "RollingOut"),
            "Available": ("False", "BelowMinimum"),
            "Degraded": ("False", "RollingOut"),
            "Routable": ("False", "BelowMinimum"),
            "Ready": ("False", "NotReady"),
        },
    ),
    "one of three is gone": (
        lambda: serving(2, of=3),
        {
            "Progressing": ("False", "RolledOut"),
            "Available": ("True", "MinimumAvailable"),
            "Degraded": ("True", "ReplicasMissing"),
            "Ready": ("True", "Ready"),
        },
    ),
    "too few": (
        lambda: serving(1, of=3, minAvailable=2),
        {"Available": ("False", "BelowMinimum"), "Ready": ("False", "NotReady")},
    ),
    "no node": (
        lambda: starting(pod(conditions=[unschedulable()])),
        {"Degraded": ("True", "Unschedulable"), "Progressing": ("True", "RollingOut")},
    ),
    "quota": (lambda: starting(gated()), {"Degraded": ("True", "QuotaPending")}),
    "image": (lambda: starting(pod(**waiting("ImagePullBackOff", "x"))), {"Degraded": ("True", "ImagePullFailed")}),
    "crash": (
        lambda: starting(pod(**waiting("CrashLoopBackOff", last={"exitCode": 1, "message": "no memory"}))),
        {"Degraded": ("True", "ReplicasMissing")},
    ),
    "pods refused": (refused_pods, {"Degraded": ("True", "ReplicasMissing")}),
    "stuck": (stuck, {"Progressing": ("False", "ReplicasMissing"), "Degraded": ("True", "ImagePullFailed")}),
    "scaled to zero": (
        scaled_to_zero,
        {
            "Accepted": ("True", "Accepted"),
            **dict.fromkeys(("Progressing", "Available", "Degraded", "Routable", "Ready"), ("False", "ScaledToZero")),
        },
    ),
    "no secret": (lambda: lacking(Reason.SECRET_NOT_FOUND), {"Accepted": ("False", "SecretNotFound")}),
    "a Secret that is not for pools": (
        lambda: lacking(Reason.SECRET_NOT_ALLOWED),
        {"Accepted": ("False", "SecretNotAllowed")},
    ),
    "no config map": (lambda: lacking(Reason.CONFIG_MAP_NOT_FOUND), {"Accepted": ("False", "ConfigMapNotFound")}),
    "no claim": (lambda: lacking(Reason.CLAIM_NOT_FOUND), {"Accepted": ("False", "ClaimNotFound")}),
    "no class": (lambda: lacking(Reason.STORAGE_CLASS_NOT_FOUND), {"Accepted": ("False", "StorageClassNotFound")}),
    "overlay": (
        lambda: PoolWorld(vllm_pool(podTemplate={"spec": {"hostPID": True}})),
        {"Accepted": ("False", "InvalidPodTemplate"), "Ready": ("False", "NotReady")},
    ),
    "spec": (
        lambda: PoolWorld(vllm_pool(model={"uri": "s3://bucket/m"})),
        {"Accepted": ("False", "InvalidSpec")},
    ),
    "endpoint answers": (
        lambda: answering(Reason.PROBE_ANSWERED),
        {
            "Progressing": ("False", "RolledOut"),
            "Available": ("True", "ProbeAnswered"),
            "Degraded": ("False", "ProbeAnswered"),
            "Routable": ("True", "ProbeAnswered"),
            "Ready": ("True", "Ready"),
        },
    ),
    "endpoint is out": (
        lambda: answering(Reason.PROBE_FAILED, "cannot connect"),
        {
            "Available": ("False", "ProbeFailed"),
            "Degraded": ("True", "ProbeFailed"),
            "Routable": ("False", "ProbeFailed"),
            "Ready": ("False", "NotReady"),
        },
    ),
    "nobody to be asked": (
        lambda: PoolWorld(endpoint_pool(url="http://169.254.169.254/v1")),
        {
            "Accepted": ("False", "HostNotAllowed"),
            **dict.fromkeys(("Available", "Routable"), ("Unknown", "NotReady")),
            "Degraded": ("False", "NotReady"),
            "Ready": ("False", "NotReady"),
        },
    ),
    "its name leads where nobody is asked": (
        lambda: answering(Reason.HOST_NOT_ALLOWED),
        {"Routable": ("False", "HostNotAllowed"), "Ready": ("False", "NotReady")},
    ),
    "unreadable": (
        unreadable,
        {
            "Accepted": ("False", "InvalidSpec"),
            **dict.fromkeys(("Progressing", "Available", "Degraded", "Routable"), ("Unknown", "NotReady")),
            "Ready": ("False", "NotReady"),
        },
    ),
    "another model": (
        lambda: answering(Reason.WRONG_MODEL_SERVED),
        {"Routable": ("False", "WrongModelServed"), "Ready": ("False", "NotReady")},
    ),
    "not asked yet": (
        lambda: PoolWorld(endpoint_pool()),
        {"Routable": ("Unknown", "ProbePending"), "Ready": ("False", "NotReady")},
    ),
    "never asked": (
        lambda: PoolWorld(endpoint_pool(probe="None")),
        {
            "Routable": ("Unknown", "ProbeDisabled"),
            "Available": ("Unknown", "ProbeDisabled"),
            "Ready": ("True", "Ready"),
        },
    ),
}


@pytest.mark.parametrize("name", WORLDS)
def test_the_world_that_yields_it(name: str) -> None:
    make, expected = WORLDS[name]
    world = make()
    world.settle()
    said = {one["type"]: (one["status"], one["reason"]) for one in world.parent["status"]["conditions"]}
    assert said == said | expected
    assert len(said) == 6, "always all six"


def test_every_reason_of_a_pool_is_among_these_worlds() -> None:
    said = set()
    for make, _ in WORLDS.values():
        world = make()
        world.settle()
        said |= {one["reason"] for one in world.parent["status"]["conditions"]}
    from_elsewhere = {"Forbidden", "NameTaken", "OperatorFailed"}  # said by the loop, where a look fails
    of_trainings = {
        *("NoExpertsMatch", "PoolNotFound", "RayProviderUnavailable", "QuotaReserved", "QuotaUnknown", "NoQueue"),
        *("Preempted", "StreamsReady", "StreamsPending", "MessagingUnreachable", "ExpertsReady", "ExpertsUnavailable"),
        *(
            "ClusterStarting",
            "ClusterReady",
            "PodsRefused",
            "StartDeadlineExceeded",
            "ActiveDeadlineExceeded",
            "Training",
        ),
        *("WarmStarting", "Evaluating", "Restarting", "StepsDone", "SpendCapReached", "FailureRateExceeded"),
        *(
            "GroupsExhausted",
            "OutputsUnreadable",
            "NothingLearned",
            "ExpertMisconfigured",
            "ExpertOut",
            "StepsNotFinite",
            "ModelRefused",
            "BackoffLimitExceeded",
            "ProgramFailed",
            "ClusterRefused",
            "Suspending",
            "SuspendedByUser",
            "NotSuspended",
        ),
    }
    assert {str(reason) for reason in Reason} - of_trainings - from_elsewhere <= said


def test_the_words_of_scheduler_kubelet_and_container_are_told() -> None:
    for world, words in (
        (starting(pod(conditions=[unschedulable()])), "pod qwen-vllm-1: 0/3 nodes: no GPU"),
        (starting(pod(**waiting("ErrImagePull", "manifest unknown"))), "ErrImagePull: manifest unknown"),
        (
            starting(pod(**waiting("CrashLoopBackOff", last={"exitCode": 1, "message": "…\nValueError: no model"}))),
            "CrashLoopBackOff: it ended with 1: …\nValueError: no model",
        ),
        (starting(pod(**waiting("CreateContainerConfigError", 'secret "hub" not found'))), 'secret "hub" not found'),
        (
            starting(pod(containerStatuses=[{"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}])),
            "it ended with 137: OOMKilled",
        ),
        (starting(gated()), "held back by kueue.x-k8s.io/admission"),
        (refused_pods(), "pods cannot be made: violates PodSecurity"),
    ):
        world.settle()
        assert words in world.says("Degraded")[2]
        assert words in world.says("Available")[2]
        assert world.plan().requeue_after is not None, "what happens to pods wakes nobody"


def test_replicas_that_are_ready_or_leave_are_no_obstacle() -> None:
    leaving = pod("qwen-vllm-0", **waiting("CrashLoopBackOff", last={"exitCode": 1}))
    leaving["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    healed = pod("qwen-vllm-2", ready=True, containerStatuses=[{"lastState": {"terminated": {"exitCode": 1}}}])
    world = starting(leaving, healed)
    world.settle()
    assert world.says("Degraded")[0] == "False"


def test_an_unbound_cache_without_a_storage_class_is_pointed_at() -> None:
    world = PoolWorld(vllm_pool(cache={"type": "EphemeralClaim"}, resources=GPU))
    world.settle()
    world.pods = [pod(conditions=[{**unschedulable(), "message": "unbound PersistentVolumeClaims"}])]
    world.settle()
    assert "qwen-cache has no storage class: is there a default one?" in world.says("Degraded")[2]


def test_it_heals_by_itself() -> None:
    world = lacking(Reason.SECRET_NOT_FOUND)
    world.settle()
    assert not world.refs(), "nothing is made that could not work"
    assert world.says("Accepted")[2] == "spec.x: there is none: make it"
    assert world.says("Progressing") == ("False", "NotReady", "nothing is made: it is not accepted")
    world.missing = ()
    world.settle()
    assert world.refs()
    assert world.says("Accepted")[0] == "True"


def test_the_period_is_stated_and_the_time_is_not() -> None:
    world = answering(Reason.PROBE_ANSWERED, "it lists the model")
    world.settle()
    assert world.says("Routable")[2] == "it lists the model; asked every 60 s"
    world.passes(60)
    world.answers(message="it lists the model")
    assert world.plan().empty
    world.answers(Reason.PROBE_FAILED, "HTTP 500")
    world.settle()
    assert world.says("Routable")[2] == "HTTP 500; asked every 15 s"


def test_an_endpoint_counts_as_one_replica() -> None:
    for world, ready in (
        (answering(Reason.PROBE_ANSWERED, "it lists the model"), "1/1"),
        (answering(Reason.PROBE_FAILED, "HTTP 401"), "0/1"),
        (PoolWorld(endpoint_pool(probe="None")), "1/1"),
    ):
        world.settle()
        assert world.parent["status"]["ready"] == ready
    assert world.parent["status"]["servedModel"] == "oak", "nobody tells another name"


def test_events_on_transitions_alone() -> None:
    world = answering(Reason.PROBE_ANSWERED)
    world.settle()
    world.events.clear()
    world.answers(Reason.PROBE_FAILED, "HTTP 500")
    world.settle()
    assert Emit("Warning", "ProbeFailed", "Routable=False: HTTP 500; asked every 15 s") in world.events
    assert Emit("Warning", "NotReady", "Ready=False: Available: ProbeFailed") in world.events
    world.events.clear()
    world.answers(Reason.PROBE_FAILED, "HTTP 502")
    world.settle()
    assert not world.events, "other words are no news"


def test_a_pool_that_the_models_refuse_says_so_and_keeps_its_counts() -> None:
    world = serving()
    world.parent["spec"]["vllm"]["tensorParallelSize"] = 0
    world.settle()
    status, reason, message = world.says("Accepted")
    assert (status, reason) == ("False", "InvalidSpec")
    assert "tensorParallelSize" in message
    assert world.says("Ready")[0] == "False"
    assert world.parent["status"]["ready"] == "1/1"
    assert world.refs()
