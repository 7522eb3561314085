"""What is made for a training: its objects, what they carry, and who owns them."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from support.cluster.training_world import DOCUMENTS, KEPT, World
from toolorchestra.contract.driver_config import DriverConfig
from toolorchestra_operator.kubernetes.manifest import Ref
from toolorchestra_operator.trainings import node_groups
from toolorchestra_operator.trainings.progress import status_fields
from toolorchestra_operator.trainings.reconcile import SKIP_ANNOTATION


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
    assert node_groups.ROLES == {"trainers": "trainer", "engines": "engine"}


def test_reward_accuracy_and_cost_are_the_last_evaluations_where_there_was_one() -> None:
    step = {"reward_mean": 0.25, "accuracy": 0.5, "nominal_usd_per_task": 1e-7, "tokens_per_second": 12.0}
    told: dict[str, Any] = {"metrics": step}
    shown = status_fields(told, claim="c", root="/r")["metrics"]
    assert shown == {"reward": "0.25", "accuracy": "0.5", "usdPerTask": "0.0000001", "tokensPerSecond": "12"}
    told["evaluation"] = {"step": 5, "reward": -0.5, "accuracy": 0.75, "nominalUSDPerTask": 0.002, "tasks": 8}
    shown = status_fields(told, claim="c", root="/r")["metrics"]
    assert shown == {"reward": "-0.5", "accuracy": "0.75", "usdPerTask": "0.002", "tokensPerSecond": "12"}
