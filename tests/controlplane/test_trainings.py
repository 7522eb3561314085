"""A training on a real API server and a real NATS server: its life, and the operator killed in every moment of it.

Jobs, pods and the controller's words are played (`support.cluster.training_life`); what is compared is everything that
is there in the end, with what an operator left that nobody disturbed.
"""

from __future__ import annotations

from collections import Counter

import pytest
from nats.aio.client import Client

from support.cluster.mortal_operator import LookingOperator, Writes
from support.cluster.training_life import Stage, documents
from support.cluster.training_story import (
    ATTEMPTS,
    Story,
    a_namespace,
    difference,
    fails_once_completes_and_is_kept_for_its_ttl,
    is_suspended_resumed_and_deleted_while_it_runs,
    lived,
    settings,
)
from testbed.api import Api, Refused
from toolorchestra.local.nats_server import NatsServer
from toolorchestra_operator.kubernetes.api_server import ApiServer


def news(stage: Stage) -> Counter[tuple[str, str, str]]:
    """What was told how often: type, reason, and which condition; in which words depends on the moment."""
    return Counter((kind, reason, note.partition(":")[0]) for kind, reason, note in stage.events())


@pytest.mark.parametrize(
    ("story", "lives"),
    [
        (fails_once_completes_and_is_kept_for_its_ttl, 1),
        pytest.param(fails_once_completes_and_is_kept_for_its_ttl, 2, marks=pytest.mark.long),
        (is_suspended_resumed_and_deleted_while_it_runs, 1),
    ],
)
async def test_killed_after_every_write_of_its_life_it_ends_the_same(
    server: ApiServer, api: Api, namespace: str, nats_server: NatsServer, bus: Client, story: Story, lives: int
) -> None:
    """In one life after every single write; in two after every other one, so that its plans get further."""
    options = settings(nats_server)
    undisturbed_stage = Stage(api, namespace, bus)
    wanted, undisturbed = await lived(story, server, undisturbed_stage, options)
    writes, told = undisturbed.writes.done, news(undisturbed_stage)
    assert len(writes) == len(set(writes)) > 50
    for number in range(lives):
        fatal = frozenset(writes[number::lives])
        stage = Stage(api, a_namespace(api, f"{namespace[:50]}-{number}"), bus)
        found, operator = await lived(story, server, stage, options, fatal)
        # What is written of a moment that no operator lived to see is not written; and nothing is told twice
        # of one attempt.
        spared = fatal - set(operator.writes.done)
        assert operator.deaths == len(fatal) - len(spared)
        assert {what for what, _ in spared} <= {"patch OrchestratorTraining tiny", "create Event tiny"}
        assert len(spared) <= len(found), "one moment of each coming to rest at most"
        assert set(news(stage)) <= set(told)
        assert max(news(stage).values()) <= ATTEMPTS
        for moment, (one, other) in enumerate(zip(found, wanted, strict=True)):
            if lines := difference(one, other):
                pytest.fail(f"killed after {sorted(fatal)}, at rest for the time {moment}:\n{lines}")


async def test_a_trainer_and_its_engine_share_a_pod_and_part_again(
    server: ApiServer, api: Api, namespace: str, nats_server: NatsServer, bus: Client
) -> None:
    """`placement: Shared`: what cannot share is refused by the API server itself; a pod has one GPU and both roles; the
    placement changes while the training is suspended, and nothing of the first one stays."""
    stage = Stage(api, namespace, bus)
    operator = LookingOperator(server, settings(nats_server), Writes())
    gpu = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    for refused, why in [
        ({"trainers": gpu | {"replicas": 2}}, "replicas"),
        ({"trainers": gpu, "engines": gpu}, "trainers.resources"),
        ({"trainers": gpu, "engines": {"tensorParallelSize": 2}}, "tensorParallelSize"),
    ]:
        with pytest.raises(Refused, match=why):
            stage.submit(pools=False, ray={"placement": "Shared", **refused})
    jobs = {"provider": "Builtin"}  # what is played, also where RayJobs are served
    stage.submit(ray=jobs | {"placement": "Shared", "trainers": gpu})
    for pool in ("small", "large"):
        await operator.settles(namespace, pool, kind="ExpertPool")
    await operator.settles(namespace, stage.name)
    assert set(stage.jobs(1)) == {"head", "trainers"}
    (pod,) = stage.jobs(1)["trainers"]["spec"]["template"]["spec"]["containers"]
    assert [pod["command"][i + 1] for i, word in enumerate(pod["command"]) if word == "--role"] == ["trainer", "engine"]
    assert pod["resources"]["limits"] == {"nvidia.com/gpu": "1"}
    assert pod["image"] == "gpu:1"
    await stage.tells(1, 1)
    stage.comes_up(1)
    await operator.settles(namespace, stage.name)
    assert stage.condition("Running") == ("True", "Training")

    api.merge(stage.path(stage.name), {"spec": {"suspend": True}})
    await operator.settles(namespace, stage.name)
    stage.collect_pods()
    parted = jobs | {"placement": "Separate", "engines": gpu}
    api.merge(stage.path(stage.name), {"spec": {"suspend": False, "ray": parted}})
    await operator.settles(namespace, stage.name)
    assert stage.jobs(1) == {}
    assert set(stage.jobs(2)) == {"head", "trainers", "engines"}
    await operator.close()


async def test_gpus_for_one_half_are_refused_with_their_field_and_heal(
    server: ApiServer, api: Api, namespace: str, nats_server: NatsServer, bus: Client
) -> None:
    """The engines of such a training would wait for ever, and its trainers' GPUs be paid for."""
    stage = Stage(api, namespace, bus)
    operator = LookingOperator(server, settings(nats_server), Writes())
    gpu = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
    stage.submit(ray={"provider": "Builtin", "trainers": gpu})
    for pool in ("small", "large"):
        await operator.settles(namespace, pool, kind="ExpertPool")
    await operator.settles(namespace, stage.name)
    assert stage.condition("Accepted") == ("False", "InvalidSpec")
    accepted = next(one for one in stage.status()["conditions"] if one["type"] == "Accepted")
    assert accepted["message"].startswith("spec.ray.engines.resources.limits: no GPU, and trainers have one")
    assert stage.jobs(1) == {}
    api.merge(stage.path(stage.name), {"spec": {"suspend": True}})
    api.merge(stage.path(stage.name), {"spec": {"suspend": False, "ray": {"engines": gpu}}})
    await operator.settles(namespace, stage.name)
    assert stage.condition("Accepted")[0] == "True"
    assert set(stage.jobs(1)) == {"head", "trainers", "engines"}
    await operator.close()


async def test_what_is_missing_is_told_with_its_field_and_heals(
    server: ApiServer, api: Api, namespace: str, nats_server: NatsServer, bus: Client
) -> None:
    """One after the other: all that is missing is in the message, the reason is the first one's."""
    stage, fast = Stage(api, namespace, bus), f"fast-{namespace}"
    operator = LookingOperator(server, settings(nats_server), Writes())
    model = documents()[0]["spec"]["model"]
    stage.submit(
        model=model | {"uri": "pvc://bases/one", "tokenSecretRef": {"name": "hub", "key": "token"}},
        storage={"type": "EphemeralClaim", "ephemeralClaim": {"storageClassName": fast}},
    )
    for pool in ("small", "large"):
        await operator.settles(namespace, pool, kind="ExpertPool")

    async def rests(*expected: str) -> str:
        await operator.settles(namespace, stage.name)
        assert stage.condition("Accepted") == expected
        accepted = next(one for one in stage.status()["conditions"] if one["type"] == "Accepted")
        return str(accepted.get("message", ""))

    said = await rests("False", "SecretNotFound")
    assert {line.partition(":")[0] for line in said.split("; ")} == {
        "spec.model.uri",
        "spec.model.tokenSecretRef",
        "spec.storage.ephemeralClaim.storageClassName",
    }
    api.create(stage.of("/api/v1", "secrets"), {"metadata": {"name": "hub"}, "stringData": {"other": "x"}})
    assert "Secret hub in namespace" in await rests("False", "SecretNotFound")
    api.merge(stage.of("/api/v1", "secrets", "hub"), {"stringData": {"token": "x"}})
    await rests("False", "ClaimNotFound")
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    api.create(stage.of("/api/v1", "persistentvolumeclaims"), {"metadata": {"name": "bases"}, "spec": claim})
    await rests("False", "StorageClassNotFound")
    classes = "/apis/storage.k8s.io/v1/storageclasses"
    api.create(classes, {"metadata": {"name": fast}, "provisioner": "example.org/none"})
    await rests("True", "Accepted")
    assert len(stage.jobs(1)) == 3
    made = api.get(stage.of("/apis/apps/v1", "deployments", stage.names.workers))
    (worker,) = made["spec"]["template"]["spec"]["containers"]
    beat = worker["command"][worker["command"].index("--heartbeat") + 1]
    probe = worker["livenessProbe"]
    assert beat in probe["exec"]["command"][-1], "a worker that stands still is ended by the kubelet"
    assert (probe["periodSeconds"], probe["timeoutSeconds"], probe["failureThreshold"]) == (30, 10, 2)
    api.delete(f"{classes}/{fast}")
    await rests("True", "Accepted")
    await operator.close()
