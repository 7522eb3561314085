"""Trainings under the operator's real process: killed, without its API server, beside another, and heard of at once.

Jobs, pods and the controller's words are played (`support.cluster.training_life`); API server and NATS are real.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from pathlib import Path

import pytest
from nats.aio.client import Client

from support.cluster.operator_process import operator_process, until
from support.cluster.training_life import GROUP, Player, Stage, documents, played
from support.cluster.training_story import (
    ATTEMPTS,
    a_namespace,
    difference,
    fails_once_completes_and_is_kept_for_its_ttl,
    lived,
    settings,
)
from testbed.api import Api
from testbed.cluster import Cluster
from toolorchestra.local.nats_server import NatsServer
from toolorchestra_operator.kubernetes.api_server import ApiServer


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
