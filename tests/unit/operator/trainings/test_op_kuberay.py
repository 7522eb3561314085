"""A training on KubeRay and Kueue: what its RayJob is, and its life from admission to every ending, in memory."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.cluster.kuberay_world import CONFIG_1, GPUS, RAY_JOB_1, RUNTIME, World
from support.cluster.training_world import KEPT
from testbed.cluster import CHECKOUT
from toolorchestra.api.training import OrchestratorTraining
from toolorchestra.contract.driver_config import DriverConfig
from toolorchestra_operator.kubernetes.manifest import Ref
from toolorchestra_operator.trainings import builtin, kuberay, node_groups
from toolorchestra_operator.trainings.configuration import driver_config
from toolorchestra_operator.trainings.desired import Desired

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
    first, second = told
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
