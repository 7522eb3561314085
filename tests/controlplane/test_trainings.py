"""A training on a real API server and a real NATS server: its life, and the operator killed in every moment of it.

Jobs, pods and the controller's words are played (`support.cluster.training_life`); what is compared is everything that
is there in the end, with what an operator left that nobody disturbed.
"""

from __future__ import annotations

import asyncio
import difflib
import signal
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from support.cluster.mortal_operator import LookingOperator, Write, Writes
from support.cluster.operator_process import operator_process, until
from support.cluster.training_life import GROUP, Player, Stage, documents, played
from testbed.api import Api, Refused
from testbed.cluster import Cluster
from toolorchestra.local.nats_server import NatsServer
from toolorchestra_operator.kubernetes.api_server import ApiServer
from toolorchestra_operator.runtime.settings import Settings

ATTEMPTS = 2
"""Of every story."""
TTL_AND_MORE = timedelta(days=1, seconds=1)


def settings(nats_server: NatsServer, **more: object) -> Settings:
    images = {"cpu_image": "cpu:1", "gpu_image": "gpu:1", "worker_image": "worker:1"}
    return Settings.model_validate({"nats_url": nats_server.url, **images, **more})


@dataclass
class Life:
    """A training's life, looked at whenever the operator has come to rest."""

    operator: LookingOperator
    stage: Stage
    worlds: list[dict[str, str]] = field(default_factory=list)

    async def rests(self) -> None:
        await self.operator.settles(self.stage.namespace, self.stage.name)
        self.worlds.append(await self.stage.world())

    async def begins(self) -> None:
        self.stage.submit()
        for pool in ("small", "large"):
            await self.operator.settles(self.stage.namespace, pool, kind="ExpertPool")
        await self.rests()

    async def runs(self, attempt: int, *, step: int) -> None:
        self.stage.collect_pods()
        await self.rests()
        await self.stage.tells(attempt, step)
        self.stage.comes_up(attempt)
        await self.rests()
        assert self.stage.condition("Running") == ("True", "Training")

    async def is_deleted(self) -> None:
        uid = self.stage.names.short_uid
        self.stage.api.delete(self.stage.path(self.stage.name))
        await self.operator.settles(self.stage.namespace, self.stage.name)
        with pytest.raises(Refused, match="not found"):
            self.stage.live()
        assert not await self.stage.streams(uid)


async def fails_once_completes_and_is_kept_for_its_ttl(life: Life) -> None:
    stage = life.stage
    await life.begins()
    await life.runs(1, step=1)
    stage.head_ends(1, 1, message="ValueError: boom")
    await life.rests()
    await life.runs(2, step=5)
    await stage.tells(2, 10, state="Complete")
    stage.head_ends(2, 0)
    await life.rests()
    assert stage.condition("Complete") == ("True", "StepsDone")
    life.operator.now += TTL_AND_MORE
    await life.rests()
    await life.is_deleted()


async def is_suspended_resumed_and_deleted_while_it_runs(life: Life) -> None:
    stage = life.stage
    await life.begins()
    await life.runs(1, step=1)
    for suspend in (True, False):
        stage.api.merge(stage.path(stage.name), {"spec": {"suspend": suspend}})
        await life.rests()
    await life.runs(2, step=5)
    await life.is_deleted()


Story = Callable[[Life], Coroutine[Any, Any, None]]


def a_namespace(api: Api, name: str) -> str:
    api.create("/api/v1/namespaces", {"metadata": {"name": name}})
    return name


def difference(found: dict[str, str], wanted: dict[str, str]) -> str:
    """In lines, for a failure's message; empty: there is none."""
    sides = [
        [f"{what}: {line}" for what in sorted(world) for line in world[what].splitlines()] for world in (found, wanted)
    ]
    return "\n".join(difflib.unified_diff(*sides, "found", "wanted", n=1, lineterm=""))


async def lived(
    story: Story, server: ApiServer, stage: Stage, options: Settings, fatal: frozenset[Write] = frozenset()
) -> tuple[list[dict[str, str]], LookingOperator]:
    """What was there at every rest, and the operator after it."""
    life = Life(LookingOperator(server, options, Writes(fatal)), stage)
    await story(life)
    await life.operator.close()
    return life.worlds, life.operator


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


# ── the real process ───────────────────────────────────────────────────────────────────────────────────────────────


def flags(namespace: str, nats_server: NatsServer) -> tuple[str, ...]:
    images = ("--cpu-image", "cpu:1", "--gpu-image", "gpu:1", "--worker-image", "worker:1")
    return ("--watch-namespaces", namespace, "--nats-url", nats_server.url, "--resync-seconds", "1", *images)


COMPLETED = 6
"""The rest of `fails_once_completes_and_is_kept_for_its_ttl` at which it has completed."""


@pytest.fixture
async def completed(
    server: ApiServer, api: Api, namespace: str, nats_server: NatsServer, bus: Client
) -> dict[str, str]:
    """The world of a training that has failed once and completed, with nothing else happening to it."""
    stage = Stage(api, a_namespace(api, f"{namespace[:50]}-calm"), bus)
    story = fails_once_completes_and_is_kept_for_its_ttl
    worlds, _ = await lived(story, server, stage, settings(nats_server))
    return worlds[COMPLETED]


async def becomes(stage: Stage, wanted: dict[str, str], *, seconds: float = 300.0) -> None:
    """Wait until everything is as it is wanted."""
    lines = ""

    async def is_so() -> bool:
        nonlocal lines
        lines = difference(await stage.world(), wanted)
        return not lines

    try:
        await until(is_so, seconds=seconds)
    except TimeoutError:
        pytest.fail(f"not so after {seconds:.0f} s:\n{lines}")


async def test_the_real_process_takes_it_to_its_end_though_it_is_killed_again_and_again(
    cluster: Cluster, namespace: str, nats_server: NatsServer, bus: Client, completed: dict[str, str], tmp_path: Path
) -> None:
    """SIGKILL, in the middle of its plans. The training goes on while nobody looks after it."""
    stage, log = Stage(cluster.api, namespace, bus), tmp_path / "operator.log"
    how = (cluster.kubeconfig, log, *flags(namespace, nats_server))
    stage.submit()
    async with played(Player(stage)):
        for dies_after in (2, 17, 15):
            async with operator_process(*how, dies_after=dies_after) as operator:
                status = await asyncio.wait_for(operator.process.wait(), 120)
                assert status == -signal.SIGKILL, operator.last_words()
        async with operator_process(*how) as operator:
            await becomes(stage, completed)
            assert await operator.ends() == 0
    assert "Traceback" not in log.read_text()


async def test_its_api_server_is_killed_in_the_middle_and_all_is_right_after_one_resync(
    cluster: Cluster, namespace: str, nats_server: NatsServer, bus: Client, completed: dict[str, str], tmp_path: Path
) -> None:
    stage, log = Stage(cluster.api, namespace, bus), tmp_path / "operator.log"
    stage.submit()
    player = Player(stage)
    async with operator_process(cluster.kubeconfig, log, *flags(namespace, nats_server)) as operator:
        async with played(player):
            await asyncio.wait_for(player.came_up(2), 180)
        await cluster.own.restart_api_server(down=1.0, kill=True)
        # At once, and before the operator can have found its watches again.
        await stage.tells(2, 10, state="Complete")
        stage.head_ends(2, 0)
        await operator.resyncs()
        await becomes(stage, completed, seconds=15)
        assert await operator.ends() == 0


async def test_two_operators_that_overlap_double_nothing(
    cluster: Cluster, namespace: str, nats_server: NatsServer, bus: Client, completed: dict[str, str], tmp_path: Path
) -> None:
    """For the whole of a life: every write of the one is about what the other has seen too."""
    stage, since = Stage(cluster.api, namespace, bus), cluster.audit_log.position()
    how = flags(namespace, nats_server)
    async with (
        operator_process(cluster.kubeconfig, tmp_path / "one.log", *how) as one,
        operator_process(cluster.kubeconfig, tmp_path / "other.log", *how) as other,
    ):
        stage.submit()
        async with played(Player(stage)):
            await becomes(stage, completed)
        await one.resyncs()
        await other.resyncs()
        await becomes(stage, completed, seconds=15)
        assert [await one.ends(), await other.ends()] == [0, 0]
    writes = cluster.audit_log.writes(since=since, user_agent="toolorchestra-operator", namespace=namespace)
    made = Counter((write.resource, write.name) for write in writes if write.verb == "create" and write.code == 201)
    made += Counter((write.resource, write.name) for write in writes if write.verb == "patch" and write.code == 201)
    assert set(made.values()) == {1}
    jobs = {name for resource, name in made if resource == "jobs.batch"}
    assert jobs == {f"tiny-{attempt}-{part}" for attempt in (1, 2) for part in ("head", "trainers", "engines")}
    told = Counter((reason, note.partition(":")[0]) for _, reason, note in stage.events())
    assert max(told.values()) <= ATTEMPTS


async def test_two_of_one_name_never_meet_and_what_one_leaves_behind_is_swept(
    cluster: Cluster, namespace: str, nats_server: NatsServer, bus: Client, tmp_path: Path
) -> None:
    """In two namespaces; and in one, where the first went without its operator and another was made under its name."""
    elsewhere = a_namespace(cluster.api, f"{namespace[:50]}-2")
    here, there = (Stage(cluster.api, where, bus) for where in (namespace, elsewhere))
    how = (cluster.kubeconfig, tmp_path / "operator.log", *flags(f"{namespace},{elsewhere}", nats_server))

    async def are_made() -> bool:
        return all(len(stage.jobs(1)) == 3 for stage in (here, there))

    async with operator_process(*how) as operator:
        here.submit()
        there.submit()
        await until(are_made, seconds=120)
        first, other = here.names, there.names
        assert first.short_uid != other.short_uid
        await there.tells(1, 7)

        async def is_told() -> bool:
            return there.status().get("step") == 7

        await until(is_told, seconds=60)
        assert "step" not in here.status()
        assert await operator.ends(signal.SIGKILL) == -signal.SIGKILL
    cluster.api.delete(here.path(here.name))
    cluster.api.merge(here.path(here.name), {"metadata": {"finalizers": None}})
    here.collect_children()
    volume = {"type": "ExistingClaim", "existingClaim": {"claimName": first.storage}}
    here.submit(pools=False, storage=volume)  # what the first one left, with a folder of its own
    kept = await there.streams(other.short_uid)
    async with operator_process(*how) as operator:
        await until(are_made, seconds=120)

        async def is_swept() -> bool:
            return not await here.streams(first.short_uid)

        await until(is_swept, seconds=60)
        again = here.names
        assert again.uid != first.uid
        await operator.resyncs(2)
        assert len(await here.streams(again.short_uid)) == len(kept) == 6
        assert await there.streams(other.short_uid) == kept
        assert "step" not in here.status(), "what the one before was told"
        assert await operator.ends() == 0


async def test_a_training_hears_of_its_pools_at_once(
    cluster: Cluster, namespace: str, nats_server: NatsServer, bus: Client, tmp_path: Path
) -> None:
    """There is no resync within the test."""
    stage = Stage(cluster.api, namespace, bus)
    how = [*flags(namespace, nats_server), "--resync-seconds", "3600"]

    async def is_so(kind: str, wanted: tuple[str, str]) -> None:
        async def it_is() -> bool:
            return stage.condition(kind) == wanted

        await until(it_is, seconds=90)

    async with operator_process(cluster.kubeconfig, tmp_path / "operator.log", *how) as operator:
        stage.submit(pools=False)
        await is_so("Accepted", ("False", "PoolNotFound"))
        for pool in documents()[1]:
            cluster.api.create(stage.of(GROUP, "expertpools"), pool)
        await is_so("Accepted", ("True", "Accepted"))
        await is_so("ExpertsReady", ("True", "ExpertsReady"))
        cluster.api.delete(stage.of(GROUP, "expertpools", "small"))
        await is_so("Accepted", ("False", "PoolNotFound"))
        cluster.api.create(stage.of(GROUP, "expertpools"), documents()[1][0])
        await is_so("Accepted", ("True", "Accepted"))
        assert await operator.sample("resyncs_total") == 0
        assert await operator.ends() == 0
