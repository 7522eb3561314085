"""What others have under a training's names, on a real API server: never read as its own, never changed, never removed.

There is no garbage collector here: what a training that was deleted leaves goes when a test lets it go.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from typing import Any

import pytest

from support.cluster.mortal_operator import LookingOperator
from support.cluster.training_life import MADE, Stage, connected
from testbed.api import Api, Refused
from testbed.cluster import Cluster
from toolorchestra.contract.labels import TRAINING_LABEL
from toolorchestra.local.nats_server import NatsServer
from toolorchestra_operator.kubernetes.api_server import ApiServer
from toolorchestra_operator.runtime.settings import Settings
from toolorchestra_operator.trainings.names import TrainingNames

TTL_AND_MORE = timedelta(days=1, seconds=1)
POD = {"containers": [{"name": "c", "image": "theirs"}]}
LABELLED = {"metadata": {"labels": {"app": "theirs"}}}
CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
JOB = {"spec": {"template": {**LABELLED, "spec": {**POD, "restartPolicy": "Never"}}}}
DEPLOYMENT = {"spec": {"selector": {"matchLabels": {"app": "theirs"}}, "template": {**LABELLED, "spec": POD}}}
CACHE = TrainingNames("tiny", "", "").model_cache
THEIRS: Mapping[tuple[str, str, str], Mapping[str, Any]] = {
    ("/apis/apps/v1", "deployments", "tiny-workers"): DEPLOYMENT,
    ("/apis/batch/v1", "jobs", "tiny-1-head"): JOB,
    ("/apis/batch/v1", "jobs", "tiny-1-trainers"): JOB,
    ("/apis/batch/v1", "jobs", "tiny-1-engines"): JOB,
    ("/api/v1", "services", "tiny-1"): {"spec": {"ports": [{"port": 80}]}},
    ("/api/v1", "configmaps", "tiny-1"): {"data": {"a": "theirs"}},
    ("/api/v1", "secrets", "tiny-ray"): {"stringData": {"a": "theirs"}},
    ("/api/v1", "persistentvolumeclaims", "tiny-storage"): {"spec": CLAIM},
    ("/api/v1", "persistentvolumeclaims", CACHE): {"spec": CLAIM},
}
"""An object of somebody else's under every name of the training's."""
ASKS_FOR_A_CACHE = {"provider": "Builtin", "modelCache": {"type": "EphemeralClaim"}}


@pytest.fixture
async def stage(api: Api, namespace: str, nats_server: NatsServer) -> AsyncIterator[Stage]:
    async with connected(nats_server.url) as bus:
        yield Stage(api, namespace, bus)


@pytest.fixture
async def operator(server: ApiServer, nats_server: NatsServer) -> AsyncIterator[LookingOperator]:
    images = {"cpu_image": "cpu:1", "gpu_image": "gpu:1", "worker_image": "worker:1"}
    operator = LookingOperator(server, Settings.model_validate({"nats_url": nats_server.url, **images}))
    yield operator
    await operator.close()


def versions(stage: Stage) -> dict[str, str]:
    """Every object of the kinds that are made, with its version: another one was written to."""
    return {
        f"{plural} {live['metadata']['name']}": live["metadata"]["resourceVersion"]
        for group, plural in MADE
        for live in stage.api.get(stage.of(group, plural))["items"]
    }


def accepted(stage: Stage) -> tuple[str, str, str]:
    (found,) = [one for one in stage.status()["conditions"] if one["type"] == "Accepted"]
    return found["status"], found["reason"], found["message"]


async def submitted(operator: LookingOperator, stage: Stage, *, pools: bool = True, **spec: Any) -> None:
    """The training, looked at until nothing is left to do."""
    stage.submit(pools=pools, **spec)
    for pool in ("small", "large"):
        await operator.settles(stage.namespace, pool, kind="ExpertPool")
    await operator.settles(stage.namespace, stage.name)


async def test_nothing_of_others_is_touched_and_nothing_is_made_beside_it(
    operator: LookingOperator, stage: Stage
) -> None:
    """One name after the other is freed: what is left is named, and it is all or nothing."""
    for (group, plural, name), body in THEIRS.items():
        stage.api.create(stage.of(group, plural), {"metadata": {"name": name}, **body})
    await submitted(operator, stage, ray=ASKS_FOR_A_CACHE)
    theirs = versions(stage)
    for suspend in (True, False):
        stage.api.merge(stage.path(stage.name), {"spec": {"suspend": suspend}})
        await operator.settles(stage.namespace, stage.name)
        assert stage.condition("Suspended")[0] == str(suspend)
    left = list(THEIRS)
    while left:
        status, reason, message = accepted(stage)
        assert (status, reason) == ("False", "NameTaken")
        said = {part.partition(" is there already")[0].rpartition("/")[2] for part in message.split("; ")}
        assert said - {"else delete it, or give the training another name"} == {name for _, _, name in left}
        assert versions(stage) == theirs
        group, plural, name = left.pop()
        if plural == "persistentvolumeclaims":
            assert f"existingClaim: {{claimName: {name}}}" in message, "how to use it is said"
            stage.api.merge(stage.of(group, plural, name), {"metadata": {"finalizers": None}})
        stage.api.delete(stage.of(group, plural, name), propagationPolicy="Background")
        del theirs[f"{plural} {name}"]
        await operator.settles(stage.namespace, stage.name)
    assert accepted(stage)[:2] == ("True", "Accepted")
    assert set(stage.jobs(1)) == {"head", "trainers", "engines"}


@pytest.mark.parametrize("ends", ["ttl", "deletion", "suspended", "fails"])
async def test_what_took_a_name_while_it_ran_stays(operator: LookingOperator, stage: Stage, ends: str) -> None:
    await submitted(operator, stage)
    await stage.tells(1, 1)
    stage.comes_up(1)
    await operator.settles(stage.namespace, stage.name)
    kept = {("/api/v1", "persistentvolumeclaims"), ("/apis/batch/v1", "jobs")}
    swapped = [one for one in THEIRS if one[:2] not in kept or one[2] == "tiny-1-engines"]
    for group, plural, name in swapped:
        stage.api.delete(stage.of(group, plural, name), propagationPolicy="Background")
        stage.api.create(stage.of(group, plural), {"metadata": {"name": name}, **THEIRS[group, plural, name]})
    theirs = {what: version for what, version in versions(stage).items() if what.split()[1] in {s[2] for s in swapped}}
    await operator.settles(stage.namespace, stage.name)
    assert accepted(stage)[:2] == ("False", "NameTaken")
    match ends:
        case "ttl":
            await stage.tells(1, 10, state="Complete")
            stage.head_ends(1, 0)
            await operator.settles(stage.namespace, stage.name)
            operator.now += TTL_AND_MORE
        case "deletion":
            stage.api.delete(stage.path(stage.name))
        case "suspended":
            stage.api.merge(stage.path(stage.name), {"spec": {"suspend": True}})
        case _:
            stage.head_ends(1, 1, message="ValueError: boom")
    await operator.settles(stage.namespace, stage.name)
    found = versions(stage)
    assert {what: found.get(what) for what in theirs} == theirs
    assert set(stage.jobs(1)) == {"engines"}, "its own are gone"
    if ends != "deletion":
        assert stage.status()["attempt"] == (1 if ends == "ttl" else 2)


@pytest.mark.parametrize("left", ["collected late", "orphaned"])
@pytest.mark.parametrize("code", [0, 1])
async def test_an_earlier_one_of_the_name_ends_nothing(
    operator: LookingOperator, stage: Stage, left: str, code: int
) -> None:
    """Its head's Job has ended, well or not, when another training is made under the name."""
    await submitted(operator, stage)
    earlier = stage.names
    await stage.tells(1, 1)
    stage.comes_up(1)
    stage.head_ends(1, code, message="ValueError: of the earlier one")
    # The operator is away, and somebody lets the training go without it.
    stage.api.merge(stage.path(stage.name), {"metadata": {"finalizers": None}})
    stage.api.delete(stage.path(stage.name))
    with pytest.raises(Refused, match="not found"):
        stage.live()
    if left == "orphaned":
        for group, plural in MADE:
            for live in stage.api.get(stage.of(group, plural))["items"]:
                path = stage.of(group, plural, live["metadata"]["name"])
                stage.api.merge(path, {"metadata": {"ownerReferences": None}})
    before = versions(stage)

    claim = {"type": "ExistingClaim", "existingClaim": {"claimName": "tiny-storage"}}
    await submitted(operator, stage, pools=False, storage=claim)
    assert stage.names.uid != earlier.uid
    status, reason, message = accepted(stage)
    assert (status, reason) == ("False", "NameTaken")
    assert "Job" in message
    assert "tiny-1-head" in message
    assert "PersistentVolumeClaim" not in message, "it is named by the spec"
    assert ("waiting until it is gone" in message) == (left == "collected late")
    assert {stage.condition(kind) for kind in ("Complete", "Failed", "Running")} == {("", "")}
    assert "attempt" not in stage.status()
    assert versions(stage) == before

    for group, plural in MADE:
        for live in stage.api.get(stage.of(group, plural))["items"]:
            if live["metadata"].get("labels", {}).get(TRAINING_LABEL) and plural != "persistentvolumeclaims":
                path = stage.of(group, plural, live["metadata"]["name"])
                stage.api.delete(path, propagationPolicy="Background")
    # The pod of the earlier one's head is there yet, with its last words.
    (pod,) = stage.api.get(stage.of("/api/v1", "pods"))["items"]
    await operator.settles(stage.namespace, stage.name)
    assert accepted(stage)[:2] == ("True", "Accepted")
    await stage.tells(1, 2)
    stage.comes_up(1)
    head = stage.jobs(1)["head"]
    stage.api.merge(
        stage.of("/apis/batch/v1", "jobs", head["metadata"]["name"], "status"),
        {"status": {"active": 0, "ready": 0, "failed": 1, "conditions": _failed()}},
    )
    await operator.settles(stage.namespace, stage.name)
    assert stage.condition("Failed") == ("", "")
    assert stage.status()["restarts"] == 0, "its pod is gone: that is nobody's failure, whatever the earlier one's said"
    assert stage.status()["attempt"] == 2
    selector = stage.api.get(stage.of("/api/v1", "services", "tiny-2"))["spec"]["selector"]
    assert not selector.items() <= pod["metadata"]["labels"].items(), "and no node joins the earlier one's head"


def _failed() -> list[dict[str, Any]]:
    when = dict.fromkeys(("lastTransitionTime", "lastProbeTime"), "2030-01-01T00:00:00Z")
    return [{"type": kind, "status": "True", "reason": "Played", **when} for kind in ("FailureTarget", "Failed")]


async def test_a_volume_that_was_kept_is_taken_over_by_name_only(operator: LookingOperator, stage: Stage) -> None:
    await submitted(operator, stage)
    earlier, kept = stage.names, stage.of("/api/v1", "persistentvolumeclaims", "tiny-storage")
    stage.api.delete(stage.path(stage.name))
    await operator.settles(stage.namespace, stage.name)
    stage.collect_children()
    before = stage.api.get(kept)
    await submitted(operator, stage, pools=False)
    status, reason, message = accepted(stage)
    assert (status, reason) == ("False", "NameTaken")
    assert earlier.uid in message
    assert "storage: {type: ExistingClaim, existingClaim: {claimName: tiny-storage}}" in message
    assert stage.jobs(1) == {}
    stage.api.delete(stage.path(stage.name))
    await operator.settles(stage.namespace, stage.name)
    claim = {"type": "ExistingClaim", "existingClaim": {"claimName": "tiny-storage"}}
    await submitted(operator, stage, pools=False, storage=claim)
    assert accepted(stage)[:2] == ("True", "Accepted")
    volumes = stage.jobs(1)["head"]["spec"]["template"]["spec"]["volumes"]
    assert {"claimName": "tiny-storage"} in [one.get("persistentVolumeClaim") for one in volumes]
    assert stage.api.get(kept) == before


async def test_a_volume_of_a_release_that_did_not_mark_it_stays_its_training_s(
    operator: LookingOperator, stage: Stage
) -> None:
    await submitted(operator, stage)
    stage.api.merge(stage.of("/api/v1", "persistentvolumeclaims", "tiny-storage"), {"metadata": {"annotations": None}})
    await operator.settles(stage.namespace, stage.name)
    assert accepted(stage)[:2] == ("True", "Accepted")


@pytest.mark.usefixtures("kuberay")
async def test_a_rayjob_of_somebody_else_is_no_attempt_and_stays(
    operator: LookingOperator, stage: Stage, kuberay: Cluster
) -> None:
    """It has succeeded, and is there when the training is made, suspended and deleted."""
    jobs, theirs = stage.of("/apis/ray.io/v1", "rayjobs"), stage.of("/apis/ray.io/v1", "rayjobs", "tiny-1")
    head = {"rayStartParams": {}, "template": {"spec": {"containers": [{"name": "h", "image": "theirs"}]}}}
    spec = {"entrypoint": "true", "rayClusterSpec": {"headGroupSpec": head}}
    about = {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": {"name": "tiny-1"}}
    stage.api.create(jobs, {**about, "spec": spec})
    ended = {"jobStatus": "SUCCEEDED", "jobDeploymentStatus": "Complete", "failed": 0, "succeeded": 1}
    stage.api.merge(f"{theirs}/status", {"status": ended})
    before = stage.api.get(theirs)
    await submitted(operator, stage, ray={"provider": "KubeRay"})
    assert accepted(stage)[:2] == ("False", "NameTaken")
    assert stage.condition("Complete") == ("", "")
    stage.api.merge(stage.path(stage.name), {"spec": {"suspend": True}})
    await operator.settles(stage.namespace, stage.name)
    stage.api.delete(stage.path(stage.name))
    await operator.settles(stage.namespace, stage.name)
    assert stage.api.get(theirs) == before
