"""A training's reconcile: from admission to every ending, on a namespace in memory; interrupted anywhere."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.cluster.training_world import KEPT, RUNTIME, World, stored_pool
from toolorchestra.api.pool import ExpertPool
from toolorchestra.contract.exit_status import EXIT_CODES
from toolorchestra_operator.kubernetes.manifest import Ref
from toolorchestra_operator.trainings import attempt

CLUSTER = {"Job tiny-1-head", "Job tiny-1-trainers", "Job tiny-1-engines", "Service tiny-1", "ConfigMap tiny-1"}


def test_a_training_is_admitted_runs_and_completes() -> None:
    world = World()
    world.settle()
    assert world.kinds() == CLUSTER | KEPT | {"Secret tiny-ray", "Deployment tiny-workers"}
    assert world.parent["metadata"]["finalizers"] == ["toolorchestra.dev/streams"]
    assert [expert["name"] for expert in world.parent["status"]["experts"]] == ["small", "large"]
    assert world.says("ClusterReady")[:2] == ("False", "ClusterStarting")
    world.comes_up()
    world.settle()
    assert world.says("Running") == ("True", "Training", "step 1 of 10")
    assert (world.parent["status"]["step"], world.says("ClusterReady")[0]) == (1, "True")
    world.progress |= {"state": "Complete", "step": 10, "progressPercentage": 100, "spentUSD": "0.5"}
    world.head_ends(0)
    world.settle()
    assert world.says("Complete")[:2] == ("True", "StepsDone")
    assert world.parent["status"]["spentUSD"] == "0.5"
    assert world.parent["status"]["exportURI"] == f"pvc://tiny-storage/tiny-{world.names.short_uid}/export/last"
    assert "Job tiny-1-trainers" not in world.kinds(), "GPUs are given back at once"
    assert world.streams, "streams stay until the TTL"
    world.passes(86_401)
    world.settle()
    assert world.kinds() == KEPT
    assert not world.streams
    assert world.says("Complete")[0] == "True", "a finished training whose children are gone stays finished"
    assert [event for event in world.events if event.type != "Normal"] == [], "nobody is warned of a good life"


def test_what_admission_fixes_is_written_before_anything_is_made() -> None:
    plan = World().plan()
    assert plan.status is not None
    assert plan.status["attempt"] == 1
    assert not [action for action in plan.actions if type(action).__name__ != "Emit"]


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_an_operator_killed_anywhere_ends_at_the_same(data: st.DataObject) -> None:
    whole, killed = World(), World()
    whole.settle()
    for _ in range(30):
        plan = killed.plan()
        if plan.empty:
            break
        stop = data.draw(st.one_of(st.none(), st.integers(0, len(plan.actions))), label="killed after")
        killed.carry_out(plan, first=stop)
    killed.settle()
    assert killed.kinds() == whole.kinds()
    assert killed.parent["status"] == whole.parent["status"]


def test_a_steady_pass_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it write down what nobody will read: the configuration of a large spec takes seconds."""
    world = World()
    world.settle()
    world.comes_up()
    world.settle()
    monkeypatch.setattr(attempt, "config_map", None)
    before = world.writes
    for _ in range(3):
        world.passes(300)
        assert world.plan().empty
    assert world.writes == before


def test_a_changed_operator_rolls_nothing_until_the_next_attempt() -> None:
    world = World()
    world.settle()
    world.comes_up()
    world.settle()
    ref = Ref("apps/v1", "Deployment", "default", "tiny-workers")

    def image() -> str:
        found: str = world.live()[ref]["spec"]["template"]["spec"]["containers"][0]["image"]
        return found

    world.runtime = replace(RUNTIME, worker_image="worker:2", cpu_image="cpu:2", otlp_endpoint="http://collector:4318")
    assert world.plan().empty
    world.parent["spec"]["rollout"] = {**world.parent["spec"]["rollout"], "workers": 3}
    world.settle()
    assert (world.live()[ref]["spec"]["replicas"], image()) == (3, "worker"), "scaled, and not rolled"
    world.parent["spec"]["rollout"] = {**world.parent["spec"]["rollout"], "concurrencyPerWorker": 4}
    world.settle()
    assert image() == "worker:2"
    world.runtime = replace(world.runtime, worker_image="worker:3")
    world.head_ends(1, "boom")
    world.settle()
    assert (world.attempt, image()) == (2, "worker:3")


def test_a_model_that_is_served_here_is_waited_for_until_it_answers() -> None:
    """Its URL and name are known from the first moment on."""
    world = World()
    small, large = world.pools
    vllm = {"type": "VLLM", "vllm": {"model": {"uri": "hf://a/b"}}, "endpoint": None, "simulated": None}
    spec = ExpertPool.model_validate(stored_pool(small, **vllm)).spec
    since = {"lastTransitionTime": "2030-01-01T00:00:00Z", "observedGeneration": 1}
    told = {"url": "http://small", "servedModel": "small"}

    def small_is(status: str) -> None:
        ready = {"type": "Ready", "status": status, "reason": "Ready", **since}
        live = {**small.model_dump(mode="json", by_alias=True), "status": {**told, "conditions": [ready]}}
        world.pools = (ExpertPool.model_validate(live).model_copy(update={"spec": spec}), large)

    small_is("False")
    world.settle()
    assert world.says("ExpertsReady") == ("False", "ExpertsUnavailable", "waiting for: small")
    assert not [kind for kind in world.kinds() if kind.startswith("Job")]
    small_is("True")
    world.settle()
    assert world.says("ExpertsReady")[:2] == ("True", "ExpertsReady")
    assert world.kinds() >= CLUSTER
    small_is("False")
    world.settle()
    assert world.says("ExpertsReady") == ("False", "ExpertsUnavailable", "not ready: small")
    assert world.kinds() >= CLUSTER, "what runs goes on"


@pytest.mark.parametrize(("silent", "seconds"), [(0.0, 10.0), (25.0, 12.5), (3600.0, 60.0)])
def test_a_training_that_tells_little_is_looked_at_less(silent: float, seconds: float) -> None:
    world = World()
    world.settle()
    assert world.plan().requeue_after == 10.0, "its cluster is not up"
    world.comes_up()
    world.progress["updated"] = world.now.timestamp() - silent
    world.settle()
    assert world.plan().requeue_after == seconds


def test_a_failed_program_is_started_again_and_counted() -> None:
    world = World(backoffLimit=1)
    world.settle()
    world.comes_up()
    world.head_ends(1, "ValueError: boom")
    world.settle()
    assert (world.attempt, world.parent["status"]["restarts"]) == (2, 1)
    assert {"Job tiny-2-head", "ConfigMap tiny-2"} <= world.kinds()
    assert not {kind for kind in world.kinds() if "tiny-1" in kind}
    world.pods = []
    world.comes_up()
    world.head_ends(1, "ValueError: boom")
    world.settle()
    status, reason, message = world.says("Failed")
    assert (status, reason) == ("True", "BackoffLimitExceeded")
    assert message.startswith("it failed 2 times; the last words: "), "the first attempt, and one restart"
    assert message.endswith("ValueError: boom")
    assert "Job tiny-2-trainers" in world.kinds(), "a failed cluster stays for a look"
    world.passes(601)
    world.settle()
    assert not {kind for kind in world.kinds() if kind.startswith("Job")}


@pytest.mark.parametrize("code", [EXIT_CODES["Cancelled"], 143])
def test_preemption_is_nobody_s_failure(code: int) -> None:
    world = World(backoffLimit=0)
    world.settle()
    world.comes_up()
    world.head_ends(code)
    world.settle()
    assert (world.attempt, world.parent["status"]["restarts"]) == (2, 0)


@pytest.mark.parametrize(("disrupted", "restarts"), [("True", 0), ("False", 1)])
def test_a_head_that_kubernetes_killed_is_nobody_s_failure(disrupted: str, restarts: int) -> None:
    """Evicted from a node under pressure: 137, as of a program that ran out of memory."""
    world = World()
    world.settle()
    world.comes_up()
    world.head_ends(137)
    world.pods[0]["status"]["conditions"] = [{"type": "DisruptionTarget", "status": disrupted}]
    world.settle()
    assert (world.attempt, world.parent["status"]["restarts"]) == (2, restarts)


def test_a_container_that_others_put_beside_the_head_completes_nothing() -> None:
    """A mesh's proxy, which ends well after the head has not."""
    world = World()
    world.settle()
    world.comes_up()
    world.head_ends(1, "ValueError: boom")
    proxy = {"name": "a-proxy", "state": {"terminated": {"exitCode": 0}}}
    world.pods[0]["status"]["containerStatuses"].insert(0, proxy)
    world.settle()
    assert world.says("Complete") == ("", "", "")
    assert (world.attempt, world.parent["status"]["restarts"]) == (2, 1)


def test_a_paused_run_waits_for_a_change_of_its_spec() -> None:
    world = World(limits={"maxSpendUSD": "1"})
    world.settle()
    world.comes_up()
    world.progress |= {"state": "Paused", "reason": "SpendCapReached", "message": "the spend cap is reached"}
    world.head_ends(EXIT_CODES["Paused"])
    world.settle()
    assert world.says("Running") == ("False", "SpendCapReached", "the spend cap is reached")
    assert world.attempt == 1
    kept = {"Job tiny-1-head", "Service tiny-1", "ConfigMap tiny-1", "Secret tiny-ray"}
    assert world.kinds() == KEPT | kept, "whoever waits for a person holds no GPU"
    world.parent["spec"]["limits"] = {"maxSpendUSD": "2"}
    world.parent["metadata"]["generation"] = 2
    world.settle()
    assert (world.attempt, world.parent["status"]["restarts"]) == (2, 0)
    assert {"Job tiny-2-trainers", "Deployment tiny-workers"} <= world.kinds()


@pytest.mark.parametrize(
    "told",
    [
        *(
            {"spentUSD": None},
            {"spentUSD": "much"},
            {"updated": "now"},
            {"metrics": [1]},
            {"metrics": {"accuracy": "x"}},
        ),
        *({"checkpoint": {"step": 1}}, {"checkpoint": "x"}, {"step": {}, "checkpoint": {"time": "soon"}}),
    ],
)
def test_what_a_controller_of_another_release_tells_holds_up_no_suspension(told: dict[str, Any]) -> None:
    world = World()
    world.settle()
    world.comes_up()
    world.progress |= told
    world.settle()
    assert world.says("Running")[0] == "True"
    world.parent["spec"]["suspend"] = True
    world.settle()
    assert not {kind for kind in world.kinds() if kind.startswith(("Job", "Deployment"))}


def test_a_reason_that_is_not_known_yet_pauses_as_well() -> None:
    world = World()
    world.settle()
    world.comes_up()
    world.progress |= {"state": "Paused", "reason": "OfALaterRelease", "message": "because"}
    world.head_ends(EXIT_CODES["Paused"])
    world.settle()
    assert world.says("Running") == ("False", "ProgramFailed", "because")
    assert "Job tiny-1-trainers" not in world.kinds()


def test_whoever_sees_that_it_is_complete_finds_the_model() -> None:
    world = World()
    world.settle()
    world.comes_up()
    world.head_ends(0)
    while world.says("Complete")[0] != "True":
        world.carry_out(world.plan())
    assert world.parent["status"]["exportURI"].startswith("pvc://tiny-storage/")


def test_a_warm_start_is_a_start() -> None:
    world = World(startDeadlineSeconds=600)
    world.settle()
    world.comes_up()
    world.progress |= {"state": "Starting", "phase": "WarmStart", "message": "step 3 of 200"}
    world.passes(601)
    world.settle()
    assert world.says("Running")[:2] == ("False", "WarmStarting")
    assert world.says("Failed")[0] == ""
    world.progress |= {"phase": "Starting", "message": "waiting for nodes: trainer"}
    world.settle()
    assert world.says("Failed")[:2] == ("True", "StartDeadlineExceeded")


def test_suspending_gives_compute_back_and_resuming_goes_on() -> None:
    world = World()
    world.settle()
    world.comes_up()
    world.settle()
    old = world.names.labels("head", attempt=1)
    head = [{"metadata": {"name": "old-head", "labels": old}, "status": {"phase": "Running"}}]
    world.pods = head
    world.parent["spec"]["suspend"] = True
    world.settle()
    assert {"Job tiny-1-trainers", "Job tiny-1-engines"} <= world.kinds(), "the last checkpoint needs the trainers"
    assert "Job tiny-1-head" not in world.kinds()
    assert world.says("Suspended") == ("True", "Suspending", "waiting for the last checkpoint")
    world.pods = []
    world.settle()
    assert world.kinds() == KEPT | {"Secret tiny-ray"}
    assert world.says("Suspended") == ("True", "SuspendedByUser", "compute is given back")
    world.pods = head
    world.parent["spec"]["suspend"] = False
    world.settle()
    assert "Job tiny-2-head" not in world.kinds(), "the last head still writes its checkpoint"
    assert "old-head" in world.says("ClusterReady")[2]
    world.pods = []
    world.settle()
    assert "Job tiny-2-head" in world.kinds()


def test_a_cluster_that_does_not_come_up_gives_everything_back() -> None:
    world = World(startDeadlineSeconds=100, keepFailedSeconds=0)
    world.settle()
    scheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no GPU"}
    world.pods = [{"metadata": {"name": "tiny-1-trainers-0"}, "status": {"conditions": [scheduled]}}]
    world.settle()
    assert world.says("ClusterReady") == ("False", "Unschedulable", "pod tiny-1-trainers-0: no GPU")
    world.passes(101)
    world.settle()
    assert world.says("Failed")[1] == "StartDeadlineExceeded"
    assert "no GPU" in world.says("Failed")[2]
    assert not {kind for kind in world.kinds() if kind.startswith(("Job", "Deployment"))}


def test_nothing_starts_before_nats_answers() -> None:
    world = World()
    world.nats_error = "NATS at nats://nats:4222: connection refused"
    for _ in range(4):
        world.carry_out(world.plan())
    assert world.says("MessagingReady") == ("False", "MessagingUnreachable", world.nats_error)
    assert not world.objects
    world.nats_error = ""
    world.settle()
    assert world.says("MessagingReady")[0] == "True"


@pytest.mark.parametrize("kind", ["nats_error", "nats_pending"])
def test_a_training_that_runs_is_supervised_though_nats_does_not_answer(kind: str) -> None:
    """It is not taken for one that never made a step; and its end is seen."""
    world = World(startDeadlineSeconds=100, activeDeadlineSeconds=100_000)
    world.settle()
    world.comes_up()
    world.settle()
    assert world.says("Running")[:2] == ("True", "Training")
    setattr(world, kind, "NATS at nats://nats:4222: connection refused")
    world.passes(10_000)
    world.settle()
    assert world.says("Failed") == ("", "", "")
    assert world.says("Running")[0] == "True"
    assert world.says("MessagingReady")[0] == ("False" if kind == "nats_error" else "True")
    world.passes(100_000)
    world.settle()
    assert world.says("Failed")[1] == "ActiveDeadlineExceeded"


def test_the_operator_itself_needs_to_know_nats() -> None:
    """It makes the streams: a URL that only the training's pods are told would leave it waiting for ever."""
    world = World(messaging={"controllerSecretRef": {"name": "nats", "key": "url"}})
    world.runtime = replace(RUNTIME, nats_url=None)
    world.settle()
    accepted, reason, message = world.says("Accepted")
    assert (accepted, reason) == ("False", "InvalidSpec")
    assert message.startswith("spec.messaging.url: no NATS server is known")
