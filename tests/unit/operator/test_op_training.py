"""A training's reconcile: from admission to every ending, on a namespace in memory; interrupted anywhere."""

from __future__ import annotations

import copy
import os
import subprocess
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from support.cluster_model import ClusterModel
from support.openapi_excerpt import schemas
from support.real_run import TINY_RUN
from toolorchestra.api.conditions import Reason
from toolorchestra.api.pool import ExpertPool
from toolorchestra.api.training import OrchestratorTraining
from toolorchestra.train.driver_config import DriverConfig
from toolorchestra.train.status import EXIT_CODES
from toolorchestra_operator.manifest import Ref
from toolorchestra_operator.needs import Missing
from toolorchestra_operator.plan import MakeStreams, Plan
from toolorchestra_operator.trainings import attempt, cluster_state, node_groups, workers
from toolorchestra_operator.trainings.names import Names
from toolorchestra_operator.trainings.observed import Messaging, Observed
from toolorchestra_operator.trainings.progress import status_fields
from toolorchestra_operator.trainings.reconcile import SKIP_ANNOTATION, reconcile
from toolorchestra_operator.trainings.remembered import Remembered, condition_of
from toolorchestra_operator.trainings.runtime import Runtime
from toolorchestra_operator.trainings.terms import Terms

RUNTIME = Runtime(cpu_image="cpu", gpu_image="gpu", worker_image="worker", nats_url="nats://nats:4222")
DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all((TINY_RUN / "training.yaml").read_text()))
UID = "0b1d6a2e-6c1f-4d0b-9f43-6f3f6a0f7a11"


def ready(pool: dict[str, Any]) -> ExpertPool:
    since = {"lastTransitionTime": "2030-01-01T00:00:00Z", "observedGeneration": 1}
    status = {"conditions": [{"type": "Ready", "status": "True", "reason": "Ready", **since}]}
    return ExpertPool.model_validate({**pool, "status": status})


def stored_pool(pool: ExpertPool, **spec: Any) -> dict[str, Any]:
    """The pool with other fields in its spec; None: without that one."""
    written = pool.model_dump(mode="json", by_alias=True, exclude_none=True)
    written["spec"] = {key: value for key, value in (written["spec"] | spec).items() if value is not None}
    return written


class World(ClusterModel):
    """The tiny training, its experts, and what the test lets happen to its cluster."""

    def __init__(self, **spec: Any) -> None:
        parent = copy.deepcopy(DOCUMENTS[0])
        parent["metadata"] |= {"namespace": "default", "uid": UID, "generation": 1}
        parent["spec"] |= spec
        super().__init__(parent)
        self.pools = tuple(ready(pool) for pool in DOCUMENTS[1:])
        self.pods: list[dict[str, Any]] = []
        self.progress: dict[str, Any] = {}
        self.nats_error = ""
        self.nats_pending = ""
        self.leases: int | None = None
        self.missing: tuple[Missing, ...] = ()
        self.hidden: tuple[Ref, ...] = ()
        """What the operator may not look at."""
        self.runtime = RUNTIME

    @property
    def names(self) -> Names:
        return Names.of(self.parent)

    @property
    def attempt(self) -> int:
        return Remembered.of(self.parent).attempt

    def observed(self) -> Observed:
        up = self.names.short_uid in self.streams
        told, pending = self.nats_error, self.nats_pending
        ready = up and not (told or pending)
        messaging = Messaging(ready=ready, error=told, pending=pending, leases=self.leases)
        return Observed(
            parent=copy.deepcopy(self.parent),
            runtime=self.runtime,
            schemas=schemas(),
            objects={ref: live for ref, live in self.live().items() if ref not in self.hidden},
            hidden=frozenset(self.hidden),
            pods=tuple(self.pods),
            pools=self.pools,
            missing=(*self.missing, *(Missing(Reason.FORBIDDEN, f"cannot get {ref}") for ref in self.hidden)),
            messaging=messaging,
            progress=self.progress if messaging.answered else {},
            token="t" * 64,
        )

    def plan(self) -> Plan:
        return reconcile(self.observed(), self.now)

    def settle(self) -> None:
        """Reconcile until nothing is left to do."""
        for _ in range(12):
            plan = self.plan()
            if plan.empty:
                return
            self.carry_out(plan)
        raise AssertionError(f"it never comes to rest: {self.plan()}")

    def job(self, component: Any) -> Ref:
        return Ref("batch/v1", "Job", "default", self.names.job(self.attempt, component))

    def comes_up(self) -> None:
        for component in ("head", "trainers", "engines"):
            self.set_status(self.job(component), {"ready": 1, "active": 1})
        self.progress = {"attempt": self.attempt, "state": "Running", "message": "", "step": 1, "steps": 10}

    def head_ends(self, code: int, message: str = "") -> None:
        kind = "Complete" if code == 0 else "Failed"
        self.set_status(self.job("head"), {"conditions": [{"type": kind, "status": "True"}]})
        ended = {"name": "head", "state": {"terminated": {"exitCode": code, "message": message}}}
        labels = self.names.labels("head", attempt=self.attempt)
        job = self.live()[self.job("head")]["metadata"]
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": job["name"], "uid": job["uid"], "controller": True}
        status = {"phase": "Succeeded" if code == 0 else "Failed", "containerStatuses": [ended]}
        self.pods = [{"metadata": {"name": "head", "labels": labels, "ownerReferences": [owner]}, "status": status}]

    def says(self, kind: str) -> tuple[str, str, str]:
        found = condition_of(self.parent, kind)
        return found.get("status", ""), found.get("reason", ""), found.get("message", "")

    def kinds(self) -> set[str]:
        return {f"{ref.kind} {ref.name}" for ref in self.objects}


CLUSTER = {"Job tiny-1-head", "Job tiny-1-trainers", "Job tiny-1-engines", "Service tiny-1", "ConfigMap tiny-1"}
KEPT = {"PersistentVolumeClaim tiny-storage"}


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
    assert world.kinds() >= CLUSTER
    small_is("False")
    world.settle()
    assert world.says("ExpertsReady")[0] == "False"
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
    assert world.says("Failed")[:2] == ("True", "BackoffLimitExceeded")
    assert "ValueError: boom" in world.says("Failed")[2]
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
    world.progress |= {"state": "Starting", "message": "warm start: step 3 of 200, loss 2.0"}
    world.passes(601)
    world.settle()
    assert world.says("Running")[:2] == ("False", "WarmStarting")
    assert world.says("Failed")[0] == ""
    world.progress |= {"message": "waiting for nodes: trainer"}
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
    assert world.says("Suspended") == ("True", "SuspendedByUser", "waiting for the last checkpoint")
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


GPU = {"resources": {"limits": {"nvidia.com/gpu": 1}}}
MIG = {"resources": {"limits": {"nvidia.com/mig-1g.10gb": 1}}}
"""One part of a GPU."""
REQUESTED = {"resources": {"requests": {"nvidia.com/gpu": 1}}}


@pytest.mark.parametrize(
    ("ray", "said"),
    [
        ({"trainers": GPU}, "spec.ray.engines.resources.limits: no GPU, and trainers have one"),
        ({"engines": GPU}, "spec.ray.trainers.resources.limits: no GPU, and engines have one"),
        ({"trainers": MIG}, "spec.ray.engines.resources.limits: no GPU, and trainers have one"),
        (
            {"trainers": REQUESTED, "engines": GPU},
            "spec.ray.trainers.resources: nvidia.com/gpu: it is in requests only",
        ),
    ],
)
def test_gpus_that_would_never_be_had_are_refused_at_once(ray: dict[str, Any], said: str) -> None:
    """Engines would wait for ever for a node with a GPU, while the trainers' ones are paid for."""
    world = World(ray=ray)
    world.settle()
    accepted, reason, message = world.says("Accepted")
    assert (accepted, reason) == ("False", "InvalidSpec")
    assert message.startswith(said)
    assert not world.objects


@pytest.mark.parametrize(
    "ray",
    [
        {},
        {"trainers": GPU, "engines": GPU},
        {"trainers": MIG, "engines": MIG},
        {"trainers": GPU, "placement": "Shared"},
    ],
)
def test_gpus_for_both_or_neither_are_accepted(ray: dict[str, Any]) -> None:
    world = World(ray=ray)
    world.settle()
    assert world.says("Accepted")[0] == "True"


def test_what_cannot_work_is_refused_and_heals() -> None:
    world = World()
    pools, world.pools = world.pools, ()
    world.settle()
    status, reason, message = world.says("Accepted")
    assert (status, reason) == ("False", "PoolNotFound")
    assert "small, large" in message
    assert not world.objects
    world.pools = pools
    world.settle()
    assert world.says("Accepted")[0] == "True"


def test_more_workers_may_hold_more_tasks() -> None:
    """Without it a training that is given ten times the workers goes on as slowly as before."""
    world = World()
    world.settle()
    world.comes_up()

    def made() -> list[int]:
        return [one.settings.max_ack_pending for one in world.plan().actions if isinstance(one, MakeStreams)]

    for wanted, leases in ((2, 19), (20, 192), (1, 16)):
        world.parent["spec"]["rollout"]["workers"] = wanted
        assert made() == ([] if world.leases is None else [leases])
        world.leases = leases
        assert not made()


def test_what_is_missing_holds_up_a_start_and_no_end() -> None:
    """A Secret that went after the end must not keep the TTL from doing its work."""
    world = World()
    world.missing = (Missing(Reason.CLAIM_NOT_FOUND, "spec.model.uri: there is no claim"),)
    world.settle()
    assert world.says("Accepted") == ("False", "ClaimNotFound", "spec.model.uri: there is no claim")
    assert not world.kinds()
    world.missing = ()
    world.settle()
    world.comes_up()
    world.head_ends(0)
    world.settle()
    world.missing = (Missing(Reason.SECRET_NOT_FOUND, "gone"),)
    world.passes(86_401)
    world.settle()
    assert world.says("Accepted")[0] == "True"
    assert world.kinds() == KEPT


@pytest.mark.parametrize("breaks", ["stored under another schema", "nobody thought of it"])
@pytest.mark.parametrize("ends", ["suspended", "failed", "complete", "deadline"])
def test_a_spec_that_cannot_be_worked_with_holds_up_no_end(
    breaks: str, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The terms that can be read count: they may be all that is right in it."""
    world = World(backoffLimit=0, ttlSecondsAfterFinished=60, keepFailedSeconds=0, activeDeadlineSeconds=3600)
    world.settle()
    world.comes_up()
    world.settle()
    if breaks == "nobody thought of it":

        def breaks_down(*_: Any, **__: Any) -> None:
            raise TypeError("a pod template that is a number")

        monkeypatch.setattr(workers, "deployment", breaks_down)
    else:
        world.parent["spec"]["rollout"] = {"workers": "many"}
        world.parent["spec"] |= {"keepFailedSeconds": "a while", "algorithm": 5}
    world.progress |= {"step": 2}
    world.settle()
    accepted, reason, message = world.says("Accepted")
    assert (accepted, reason) == ("False", "OperatorFailed" if breaks == "nobody thought of it" else "InvalidSpec")
    assert ("a pod template that is a number" if breaks == "nobody thought of it" else "spec.algorithm") in message
    assert world.says("Running") == ("True", "Training", "step 2 of 10")
    match ends:
        case "suspended":
            world.parent["spec"]["suspend"] = True
            world.settle()
            assert world.says("Suspended")[0] == "True"
            assert world.kinds() == KEPT | {"Secret tiny-ray"}
            return
        case "failed":
            world.head_ends(1, "ValueError: boom")
            world.settle()
            assert world.says("Failed")[1] == "BackoffLimitExceeded"
        case "deadline":
            world.passes(3601)
            world.settle()
            assert world.says("Failed")[1] == "ActiveDeadlineExceeded"
        case _:
            world.head_ends(0)
            world.settle()
            assert world.says("Complete")[0] == "True"
            assert world.parent["status"]["exportURI"].startswith("pvc://tiny-storage/tiny-")
    world.passes(601)
    world.settle()
    assert world.kinds() == KEPT
    assert not world.streams


def test_what_may_not_be_looked_at_is_not_taken_for_gone() -> None:
    world = World()
    world.settle()
    world.comes_up()
    world.settle()
    made = world.kinds()
    world.hidden = tuple(world.job(component) for component in ("head", "trainers", "engines"))
    world.settle()
    assert world.says("Accepted")[:2] == ("False", "Forbidden")
    assert "Job default/tiny-1-head" in world.says("ClusterReady")[2]
    assert (world.attempt, world.kinds()) == (1, made)
    world.parent["spec"]["suspend"] = True
    world.settle()
    assert world.says("Suspended") == ("True", "SuspendedByUser", "waiting for the last checkpoint")
    world.hidden = ()
    world.settle()
    assert world.says("Suspended")[2] == "compute is given back"
    assert world.kinds() == KEPT | {"Secret tiny-ray"}


def test_terms_are_what_the_models_make_of_a_spec() -> None:
    spec = DOCUMENTS[0]["spec"]
    claim = {"type": "ExistingClaim", "existingClaim": {"claimName": "shared", "path": "runs/"}}
    more = {
        "suspend": True,
        "backoffLimit": 7,
        "queueName": "research",
        "storage": claim,
        "activeDeadlineSeconds": 9999,
    }
    for changed in ({}, more):
        parent = {**DOCUMENTS[0], "metadata": {"name": "tiny", "namespace": "default"}, "spec": {**spec, **changed}}
        whole = OrchestratorTraining.model_validate(parent).spec
        terms = Terms.of(parent)
        assert asdict(terms) == {name: getattr(whole, name) for name in asdict(terms)}
    assert Terms.of({"spec": {"backoffLimit": -1, "storage": "round", "suspend": True}}) == replace(
        Terms.of({"spec": {}}), suspend=True
    )


def test_a_nats_that_nobody_can_ask_is_not_written_to() -> None:
    """What is missing there is not known; and a write that fails would keep what runs from being told of."""
    world = World()
    world.settle()
    world.comes_up()
    world.settle()
    world.nats_error = "NATS at nats://nats:4222: no answer in time"
    assert not [one for one in world.plan().actions if isinstance(one, MakeStreams)]
    world.head_ends(1, "ValueError: boom")
    world.settle()
    assert world.attempt == 2
    assert world.says("MessagingReady")[:2] == ("False", "MessagingUnreachable")
    assert not [kind for kind in world.kinds() if kind.startswith("Job tiny-2")]


@pytest.mark.parametrize("folder", [None, "kept/here"])
def test_weights_and_compiled_code_are_kept_where_a_cache_is_asked_for(folder: str | None) -> None:
    """On a volume of one's own, or one that trainings share: each model in a folder of its own."""
    model = DOCUMENTS[0]["spec"]["model"] | {"uri": "hf://acme/base", "revision": "v1"}
    existing = {"type": "ExistingClaim", "existingClaim": {"claimName": "shared", "path": folder}}
    cache: dict[str, Any] = (
        {"type": "EphemeralClaim", "ephemeralClaim": {"size": "9Gi"}} if folder is None else existing
    )
    world = World(model=model, ray={"provider": "Builtin", "modelCache": cache})
    world.settle()
    objects = world.live()
    claim = "tiny-models" if folder is None else "shared"
    made = objects.get(Ref("v1", "PersistentVolumeClaim", "default", "tiny-models"))
    assert (made is None) == (folder is not None)
    if made is not None:
        assert made["spec"]["resources"]["requests"]["storage"] == "9Gi"
        assert made["metadata"]["ownerReferences"], "it goes with the training"
    for component in ("trainers", "engines", "head"):
        pod = objects[world.job(component)]["spec"]["template"]["spec"]
        volume = next(one for one in pod["volumes"] if one["name"] == "models")
        assert volume["persistentVolumeClaim"] == {"claimName": claim}
        (container,), (fetch,) = pod["containers"], pod["initContainers"]
        mount = next(one for one in container["volumeMounts"] if one["name"] == "models")
        assert (mount["mountPath"], mount.get("subPath")) == ("/models", folder)
        assert fetch["command"][4:6] == ["--into", "/models/acme--base@v1"]
        env = {one["name"]: one.get("value") for one in container["env"]}
        assert env["VLLM_CACHE_ROOT"] == "/models/.vllm"
    workers = objects[Ref("apps/v1", "Deployment", "default", "tiny-workers")]["spec"]["template"]["spec"]
    assert {"name": "models", "emptyDir": {}} in workers["volumes"], "a worker has the tokenizer, and needs no volume"


def test_an_overlay_reaches_its_pods_and_cannot_take_what_is_ours() -> None:
    world = World(ray={"podTemplate": {"spec": {"nodeSelector": {"gpu": "a100"}}}})
    world.settle()
    pod = world.live()[world.job("trainers")]["spec"]["template"]["spec"]
    assert pod["nodeSelector"] == {"gpu": "a100"}
    workers = world.live()[Ref("apps/v1", "Deployment", "default", "tiny-workers")]
    assert "nodeSelector" not in workers["spec"]["template"]["spec"]
    world = World(rollout={"podTemplate": {"spec": {"restartPolicy": "Never"}}})
    world.settle()
    status, reason, message = world.says("Accepted")
    assert (status, reason) == ("False", "InvalidPodTemplate")
    assert "spec.rollout.podTemplate.spec.restartPolicy" in message
    assert not world.objects


def test_a_provider_that_is_not_there_is_refused() -> None:
    world = World(ray={"provider": "KubeRay"})
    world.settle()
    assert world.says("Accepted")[:2] == ("False", "RayProviderUnavailable")
    assert not world.objects
    world = World(ray={"provider": "Auto"})
    world.settle()
    assert world.parent["status"]["ray"] == {"provider": "Builtin", "name": "tiny-1", "image": "cpu"}


@pytest.mark.parametrize("skip", [False, True])
def test_deleting_removes_what_it_made_and_lets_go(skip: bool) -> None:
    """Not left to the garbage collector alone, which forgets owners whose kind it lost sight of."""
    world = World()
    world.settle()
    world.parent["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:10Z"
    world.parent["metadata"]["annotations"] = {SKIP_ANNOTATION: "true"} if skip else {}
    streams = set(world.streams)
    world.settle()
    assert (world.streams, world.parent["metadata"]["finalizers"]) == (streams if skip else set(), [])
    assert world.kinds() == KEPT


def test_what_others_own_as_well_outlives_it() -> None:
    """As Kubernetes' own collector has it."""
    world = World(storage={"retentionPolicy": "Delete"})
    world.settle()
    storage = world.objects[Ref("v1", "PersistentVolumeClaim", "default", "tiny-storage")].live
    assert storage is not None
    storage["metadata"]["ownerReferences"].append({"kind": "ConfigMap", "name": "a-backup", "uid": "theirs"})
    world.parent["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:10Z"
    world.settle()
    assert (world.kinds(), world.parent["metadata"]["finalizers"]) == (KEPT, [])


def test_orphans_outlive_it() -> None:
    """`kubectl delete --cascade=orphan`: the API server adds a finalizer of that name."""
    world = World()
    world.settle()
    made = world.kinds()
    world.parent["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:10Z"
    world.parent["metadata"]["finalizers"] = ["orphan", *world.parent["metadata"]["finalizers"]]
    world.settle()
    assert (world.streams, world.kinds()) == (set(), made)


def test_only_a_retained_volume_has_no_owner() -> None:
    world = World()
    world.settle()
    owned = {ref.kind: "ownerReferences" in live["metadata"] for ref, live in world.live().items()}
    assert owned.pop("PersistentVolumeClaim") is False
    assert all(owned.values())
    world = World(storage={"retentionPolicy": "Delete"})
    world.settle()
    assert "ownerReferences" in world.live()[Ref("v1", "PersistentVolumeClaim", "default", "tiny-storage")]["metadata"]


def test_pods_are_restricted_and_carry_no_token() -> None:
    world = World()
    world.settle()
    templates = [
        live["spec"]["template"]["spec"] for live in world.live().values() if "template" in live.get("spec", {})
    ]
    assert len(templates) == 4
    for pod in templates:
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["allowPrivilegeEscalation"] is False


def test_a_worker_that_stands_still_is_noticed_by_its_heartbeat(tmp_path: Path) -> None:
    """The probe's own command, on a file as the worker touches it."""
    world = World()
    world.settle()
    (deployment,) = [live for ref, live in world.live().items() if ref.kind == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    command, beat = container["livenessProbe"]["exec"]["command"], tmp_path / "beat"
    named = container["command"][container["command"].index("--heartbeat") + 1]
    command = [part.replace(named, str(beat)) for part in command]

    def alive() -> bool:
        return subprocess.run(command).returncode == 0

    assert alive()  # it has not begun yet
    beat.touch()
    assert alive()
    os.utime(beat, (time.time() - 100, time.time() - 100))
    assert not alive()


def test_the_driver_reads_what_the_operator_writes() -> None:
    world = World()
    world.settle()
    data = world.live()[Ref("v1", "ConfigMap", "default", "tiny-1")]["data"]
    config = DriverConfig.model_validate_json(data["driver.json"])
    assert (config.uid, config.attempt, config.cluster) == (world.names.short_uid, 1, True)
    assert (EXIT_CODES["Paused"], EXIT_CODES["Cancelled"]) == (cluster_state.EXIT_PAUSED, cluster_state.EXIT_STOPPED)
    assert node_groups.ROLES == {"trainers": "trainer", "engines": "engine"}


def test_reward_accuracy_and_cost_are_the_last_evaluations_where_there_was_one() -> None:
    step = {"reward_mean": 0.25, "accuracy": 0.5, "nominal_usd_per_task": 1e-7, "tokens_per_second": 12.0}
    told: dict[str, Any] = {"metrics": step}
    shown = status_fields(told, claim="c", root="/r")["metrics"]
    assert shown == {"reward": "0.25", "accuracy": "0.5", "usdPerTask": "0.0000001", "tokensPerSecond": "12"}
    told["evaluation"] = {"step": 5, "reward": -0.5, "accuracy": 0.75, "nominalUSDPerTask": 0.002, "tasks": 8}
    shown = status_fields(told, claim="c", root="/r")["metrics"]
    assert shown == {"reward": "-0.5", "accuracy": "0.75", "usdPerTask": "0.002", "tokensPerSecond": "12"}
