"""A training on KubeRay and Kueue: what its RayJob is, and its life from admission to every ending, in memory."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import yaml

from support.cluster_model import ClusterModel
from support.openapi_excerpt import schemas
from support.real_run import TINY_RUN
from testbed.cluster import CHECKOUT
from toolorchestra.api.conditions import Reason
from toolorchestra.api.pool import ExpertPool
from toolorchestra.api.training import OrchestratorTraining
from toolorchestra.train.driver_config import DriverConfig
from toolorchestra_operator.kinds import RAY_JOB
from toolorchestra_operator.manifest import Ref
from toolorchestra_operator.plan import Plan
from toolorchestra_operator.trainings import builtin, kuberay, node_groups
from toolorchestra_operator.trainings.configuration import driver_config
from toolorchestra_operator.trainings.desired import Desired
from toolorchestra_operator.trainings.kueue import quota
from toolorchestra_operator.trainings.names import Names
from toolorchestra_operator.trainings.observed import Messaging, Observed
from toolorchestra_operator.trainings.reconcile import reconcile
from toolorchestra_operator.trainings.remembered import Remembered, condition_of
from toolorchestra_operator.trainings.runtime import Runtime

RUNTIME = Runtime(cpu_image="cpu", gpu_image="gpu", worker_image="worker", nats_url="nats://nats:4222")
DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all((TINY_RUN / "training.yaml").read_text()))
UID = "0b1d6a2e-6c1f-4d0b-9f43-6f3f6a0f7a11"
GPUS = {"limits": {"nvidia.com/gpu": 1, "memory": "64Gi"}}
RUNNING = {"jobDeploymentStatus": "Running", "jobStatus": "RUNNING"}


def ready(pool: dict[str, Any]) -> ExpertPool:
    since = {"lastTransitionTime": "2030-01-01T00:00:00Z", "observedGeneration": 1}
    status = {"conditions": [{"type": "Ready", "status": "True", "reason": "Ready", **since}]}
    return ExpertPool.model_validate({**pool, "status": status})


class World(ClusterModel):
    """The tiny training on a cluster with KubeRay; `workloads` None: without Kueue."""

    def __init__(self, **spec: Any) -> None:
        parent = copy.deepcopy(DOCUMENTS[0])
        parent["metadata"] |= {"namespace": "default", "uid": UID, "generation": 1}
        parent["spec"] |= {"ray": {}} | spec
        super().__init__(parent)
        self.pools = tuple(ready(pool) for pool in DOCUMENTS[1:])
        self.kuberay = True
        self.runtime = RUNTIME
        self.workloads: tuple[Mapping[str, Any], ...] | None = None
        self.pods: list[dict[str, Any]] = []
        self.progress: dict[str, Any] = {}

    @property
    def names(self) -> Names:
        return Names.of(self.parent)

    @property
    def attempt(self) -> int:
        return Remembered.of(self.parent).attempt

    def plan(self) -> Plan:
        up = self.names.short_uid in self.streams
        observed = Observed(
            parent=copy.deepcopy(self.parent),
            runtime=self.runtime,
            schemas=schemas(),
            objects=self.live(),
            pods=tuple(self.pods),
            pools=self.pools,
            messaging=Messaging(ready=up),
            progress=self.progress,
            kuberay=self.kuberay,
            workloads=self.workloads,
            token="t" * 64,
        )
        return reconcile(observed, self.now)

    def settle(self) -> None:
        for _ in range(12):
            plan = self.plan()
            if plan.empty:
                return
            self.carry_out(plan)
        raise AssertionError(f"it never comes to rest: {self.plan()}")

    @property
    def ref(self) -> Ref:
        return Ref(*RAY_JOB, "default", self.names.attempt(self.attempt))

    @property
    def job(self) -> Mapping[str, Any]:
        return self.live()[self.ref]

    def says(self, kind: str) -> tuple[str, str, str]:
        found = condition_of(self.parent, kind)
        return found.get("status", ""), found.get("reason", ""), found.get("message", "")

    def kinds(self) -> set[str]:
        return {f"{ref.kind} {ref.name}" for ref in self.objects}

    def workers(self) -> int:
        deployment = self.live()[Ref("apps/v1", "Deployment", "default", self.names.workers)]
        return int(deployment["spec"]["replicas"])

    def is_(self, **status: Any) -> None:
        """KubeRay says so."""
        started = {"startTime": self.now.isoformat().replace("+00:00", "Z")}
        self.set_status(self.ref, started | status)

    def comes_up(self) -> None:
        self.is_(**RUNNING)
        self.progress = {"attempt": self.attempt, "state": "Running", "message": "", "step": 1, "steps": 10}

    def driver_ends(self, code: int, words: str = "") -> None:
        if code == 0:
            self.is_(jobDeploymentStatus="Complete", jobStatus="SUCCEEDED")
            return
        message = f"Job entrypoint command failed with exit code {code}, last available logs (…):\n{words}"
        self.is_(jobDeploymentStatus="Failed", jobStatus="FAILED", reason="AppFailed", message=message)

    def suspends(self, flag: bool) -> None:
        """The second manager."""
        live = self.objects[self.ref].live
        assert live is not None
        live["spec"]["suspend"] = flag


RAY_JOB_1, CONFIG_1 = "RayJob tiny-1", "ConfigMap tiny-1"
KEPT = {"PersistentVolumeClaim tiny-storage"}


# ── who makes the cluster ──────────────────────────────────────────────────────────────────────────────────────


def test_auto_is_kuberay_where_it_is_installed_and_stays_it() -> None:
    world = World()
    world.settle()
    assert world.parent["status"]["ray"] == {"provider": "KubeRay", "name": "tiny-1", "image": "cpu"}
    assert world.kinds() == {RAY_JOB_1, CONFIG_1, "Secret tiny-ray", "Deployment tiny-workers"} | KEPT
    world.kuberay = False
    world.settle()
    assert world.says("Accepted")[:2] == ("False", "RayProviderUnavailable")
    assert RAY_JOB_1 in world.kinds(), "what runs is left alone"
    world.kuberay = True
    world.settle()
    assert world.says("Accepted")[0] == "True"


def test_auto_without_kuberay_is_builtin_and_stays_it() -> None:
    world = World()
    world.kuberay = False
    world.settle()
    world.kuberay = True
    world.settle()
    assert world.parent["status"]["ray"]["provider"] == "Builtin"
    assert not [kind for kind in world.kinds() if kind.startswith("RayJob")]


def test_kuberay_that_is_asked_for_and_not_there_is_refused_and_heals() -> None:
    world = World(ray={"provider": "KubeRay"})
    world.kuberay = False
    world.settle()
    status, reason, message = world.says("Accepted")
    assert (status, reason) == ("False", "RayProviderUnavailable")
    assert "RayJobs (ray.io/v1) are not served" in message
    assert not world.objects
    world.kuberay = True
    world.settle()
    assert RAY_JOB_1 in world.kinds()


@pytest.mark.parametrize(("provider", "reason"), [("Builtin", "InvalidSpec"), ("Auto", "RayProviderUnavailable")])
def test_no_queue_without_kuberay(provider: str, reason: str) -> None:
    world = World(ray={"provider": provider}, queueName="research")
    world.kuberay = False
    world.settle()
    status, why, message = world.says("Accepted")
    assert (status, why) == ("False", reason)
    assert "spec.queueName" in message
    assert "KubeRay" in message
    assert not world.objects


# ── what it makes ──────────────────────────────────────────────────────────────────────────────────────────────


def desired(**spec: Any) -> Desired:
    world = World(**spec)
    world.settle()
    training = OrchestratorTraining.model_validate({k: v for k, v in world.parent.items() if k != "status"})
    return Desired(world.parent, training, RUNTIME)


def test_the_rayjob() -> None:
    (job,) = kuberay.manifests(desired(keepFailedSeconds=900), attempt=3)
    assert job["metadata"]["name"] == "tiny-3"
    spec = job["spec"]
    assert spec["entrypoint"].endswith(
        "python -m toolorchestra.cluster.entrypoint --config /etc/toolorchestra/driver.json"
    )
    assert spec["shutdownAfterJobFinishes"] is True
    assert spec["ttlSecondsAfterFinished"] == 900
    assert spec["backoffLimit"] == 0
    assert not spec.keys() & {"deletionStrategy", "activeDeadlineSeconds", "preRunningDeadlineSeconds", "suspend"}
    assert spec["rayClusterSpec"]["authOptions"] == {"mode": "token", "secretName": "tiny-ray"}
    assert spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


@pytest.mark.parametrize("lock", ["cpu", "gpu"])
def test_kuberay_is_told_the_version_of_ray_that_the_images_have(lock: str) -> None:
    """KubeRay 1.7 refuses `authOptions` without one: it would not know whether that Ray has tokens."""
    assert f"ray=={kuberay.RAY_VERSION} " in (CHECKOUT / f"locks/{lock}.txt").read_text()


def test_nodes_tell_ray_what_they_are_for() -> None:
    ray = {"trainers": {"replicas": 2, "resources": GPUS}, "engines": {"replicas": 3, "resources": GPUS}}
    (job,) = kuberay.manifests(desired(ray=ray), attempt=1)
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    told = [(one["groupName"], one["replicas"], one["minReplicas"], one["maxReplicas"]) for one in groups]
    assert told == [("trainers", 2, 2, 2), ("engines", 3, 3, 3)]
    for group in groups:
        # As a shell hands it on.
        given = group["rayStartParams"]["resources"]
        assert (given[0], given[-1]) == ("'", "'")
        assert json.loads(given.strip("'")) == {node_groups.ROLES[group["groupName"]]: 1}
        assert group["template"]["spec"]["containers"][0]["resources"] == GPUS


SHARED = {
    "placement": "Shared",
    "trainers": {"replicas": 2, "resources": GPUS},
    "engines": {"replicas": 2},
}


@pytest.mark.parametrize(
    ("resources", "gpus"),
    [
        (GPUS, "1"),
        ({"limits": {"nvidia.com/mig-1g.10gb": 1}}, "1"),
        ({"accelerator": "example.com/h100", "limits": {"example.com/h100": 1}}, "1"),
        ({"accelerator": "Claim"}, "1"),
        ({"limits": {"cpu": 2}}, None),
    ],
)
def test_ray_is_told_of_every_gpu(resources: dict[str, Any], gpus: str | None) -> None:
    (job,) = kuberay.manifests(desired(ray={"trainers": {"resources": resources}}), attempt=1)
    trainers, engines = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert trainers["rayStartParams"].get("num-gpus") == gpus
    assert "num-gpus" not in engines["rayStartParams"]


def test_trainer_and_engine_of_one_gpu_are_one_node() -> None:
    """A pod's GPU limit is whole: one pod with one GPU, in which Ray has room for both."""
    (job,) = kuberay.manifests(desired(ray=SHARED), attempt=1)
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert (group["groupName"], group["replicas"]) == ("trainers", 2)
    assert group["rayStartParams"]["num-cpus"] == "2"
    assert json.loads(group["rayStartParams"]["resources"].strip("'")) == {"trainer": 1, "engine": 1}
    assert group["template"]["spec"]["containers"][0]["resources"] == GPUS

    jobs = {one["metadata"]["name"]: one for one in builtin.manifests(desired(ray=SHARED), attempt=1)}
    assert set(jobs) == {"tiny-1", "tiny-1-head", "tiny-1-trainers"}, "no Job of engines"
    trainers = jobs["tiny-1-trainers"]
    (container,) = trainers["spec"]["template"]["spec"]["containers"]
    text = " ".join(container["command"])
    assert "--role trainer --role engine --head" in text
    assert container["resources"] == GPUS
    assert trainers["spec"]["completions"] == 2


def test_a_cluster_of_shared_nodes_is_up_without_engines_of_their_own() -> None:
    wanted = desired(ray=SHARED)
    names = wanted.names
    head, engines, trainers, _ = builtin.refs(names, 1)
    made = {one["metadata"]["name"]: one for one in builtin.manifests(wanted, attempt=1) if one["kind"] == "Job"}
    objects: dict[Ref, Any] = {head: made["tiny-1-head"] | {"status": {"ready": 1}}}

    def state() -> tuple[str, str]:
        found = builtin.state(names, 1, objects=objects, pods=[])
        return found.life, found.message

    assert state()[0] == "Starting", "its nodes are not made yet"
    objects[trainers] = made["tiny-1-trainers"] | {"status": {"ready": 1}}
    assert state() == ("Starting", "trainers: 1 of 2 ready")
    objects[trainers] = made["tiny-1-trainers"] | {"status": {"ready": 2}}
    assert state()[0] == "Up"
    assert engines not in objects
    apart = builtin.manifests(desired(ray={"trainers": {"replicas": 2}}), attempt=1)
    alone = next(one for one in apart if one["metadata"]["name"] == "tiny-1-trainers")
    objects[trainers] = alone | {"status": {"ready": 2}}
    assert state()[0] == "Starting", "nodes of trainers alone wait for engines"


def test_the_driver_is_told_that_they_share() -> None:
    told = [driver_config(desired(ray=ray), attempt=1, ray_address="auto") for ray in (SHARED, {})]
    first, second = (DriverConfig.model_validate(one) for one in told)
    assert (first.shared, first.device, first.memory) == (True, "cuda", None), "it asks the nodes what they have"
    assert (second.shared, second.device) == (False, "cpu")


def templates(found: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Pod templates by component, of either provider."""
    pods = []
    for one in found:
        if one["kind"] == "Job":
            pods.append(one["spec"]["template"])
        if one["kind"] == "RayJob":
            cluster = one["spec"]["rayClusterSpec"]
            groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
            pods += [group["template"] for group in groups]
    return {one["metadata"]["labels"]["app.kubernetes.io/component"]: one for one in pods}


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_its_pods_are_the_builtin_providers(device: str) -> None:
    nodes = {"resources": GPUS if device == "gpu" else {"limits": {"cpu": "2"}}}
    overlay = {"spec": {"nodeSelector": {"gpu": "a100"}}}
    wanted = desired(ray={"trainers": nodes, "engines": nodes, "podTemplate": overlay}, priorityClassName="high")
    ours, theirs = (templates(one.manifests(wanted, attempt=2)) for one in (kuberay, builtin))
    assert ours.keys() == theirs.keys() == {"head", "trainers", "engines"}
    for component, pod in ours.items():
        other = theirs[component]
        (container,), (like) = pod["spec"]["containers"], other["spec"]["containers"][0]
        for field in ("name", "image", "resources", "volumeMounts", "securityContext"):
            assert container[field] == like[field], field
        assert {one["name"]: one for one in container["env"]}.items() >= {
            one["name"]: one for one in like["env"]
        }.items()
        assert "command" not in container, "Ray is started by KubeRay"
        assert container["lifecycle"]["preStop"]["exec"]["command"][2] == "toolorchestra.cluster.before_end"
        differ = {"containers", "terminationGracePeriodSeconds"}
        assert {k: v for k, v in pod["spec"].items() if k not in differ} == {
            k: v for k, v in other["spec"].items() if k not in differ
        }
        assert pod["spec"]["terminationGracePeriodSeconds"] == 300
        labels = pod["metadata"]["labels"]
        assert labels["toolorchestra.dev/training"] == "tiny"
        assert "app.kubernetes.io/name" not in labels, "the head's Service of KubeRay selects its own"


def test_the_driver_is_told_of_the_cluster_that_it_is_in() -> None:
    world = World()
    world.settle()
    data = world.live()[Ref("v1", "ConfigMap", "default", "tiny-1")]["data"]
    config = DriverConfig.model_validate_json(data["driver.json"])
    assert (config.ray_address, config.attempt, config.cluster) == ("auto", 1, True)
    secret = world.live()[Ref("v1", "Secret", "default", "tiny-ray")]
    assert set(secret["stringData"]) == {"auth_token"}, "the key that KubeRay's operator reads"


def test_an_overlay_cannot_take_what_is_ours() -> None:
    world = World(ray={"podTemplate": {"spec": {"restartPolicy": "Always"}}})
    world.settle()
    assert world.says("Accepted")[:2] == ("False", "InvalidPodTemplate")


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
