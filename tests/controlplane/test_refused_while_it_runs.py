"""A training that runs while its spec is refused, on a real API server: what would be made waits, and nothing else.

Ends are recorded, deadlines pass, `suspend` gives compute back, the TTL and a deletion clean up; `Accepted=False` is
said beside all of it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
from nats.aio.client import Client

from support.cluster.mortal_operator import LookingOperator
from support.cluster.operator_process import until
from support.cluster.training_life import GROUP, Stage, documents
from testbed.api import Refused
from testbed.cluster import Cluster
from toolorchestra.kube.errors import Forbidden
from toolorchestra.local.nats_server import NatsServer
from toolorchestra_operator.kubernetes.api_server import ApiServer
from toolorchestra_operator.kubernetes.manifest import Ref
from toolorchestra_operator.runtime.settings import Settings

RBAC = "rbac.authorization.k8s.io"
SECRET = {"metadata": {"name": "bus"}, "stringData": {"url": "nats://bus"}}
TOLD_BY_A_SECRET = {"messaging": {"controllerSecretRef": {"name": "bus", "key": "url"}}}
EVERYTHING = {"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}
BUT_SECRETS = [
    {"apiGroups": [""], "resources": ["services", "pods", "configmaps", "persistentvolumeclaims"], "verbs": ["*"]},
    {"apiGroups": ["apps", "batch", "toolorchestra.dev", "events.k8s.io"], "resources": ["*"], "verbs": ["*"]},
]


@dataclass
class World:
    """One training; the operator is a user whose rights may be taken away."""

    stage: Stage
    operator: LookingOperator
    server: ApiServer
    reasons: set[str] = field(default_factory=set[str])

    async def rests(self, *, accepted: bool) -> None:
        await self.operator.settles(self.stage.namespace, self.stage.name)
        status, reason = self.stage.condition("Accepted")
        assert status == ("True" if accepted else "False")
        self.reasons |= set() if accepted else {reason}

    async def runs(self, attempt: int, *, step: int) -> None:
        """From its Jobs being there to its steps."""
        assert set(self.stage.jobs(attempt)) == {"head", "trainers", "engines"}
        await self.stage.tells(attempt, step)
        self.stage.comes_up(attempt)
        await self.rests(accepted=True)
        assert self.stage.condition("Running") == ("True", "Training")

    def spec(self, **changed: Any) -> None:
        self.stage.api.merge(self.stage.path(self.stage.name), {"spec": changed})

    def workers(self) -> bool:
        made = self.stage.api.get(self.stage.of("/apis/apps/v1", "deployments"))["items"]
        return bool([one for one in made if one["metadata"]["name"] == self.stage.names.workers])

    async def rights(self, *rules: dict[str, Any], may_read_secrets: bool) -> None:
        """Give these, and wait until they are what counts."""
        role = f"/apis/{RBAC}/v1/namespaces/{self.stage.namespace}/roles/operator"
        self.stage.api.merge(role, {"rules": list(rules)})

        async def is_so() -> bool:
            try:
                await self.server.get(Ref("v1", "Secret", self.stage.namespace, "bus"))
            except Forbidden:
                return not may_read_secrets
            return may_read_secrets

        await until(is_so, seconds=30)


@dataclass(frozen=True)
class Cause:
    """Why it is refused, how that comes to be, and how it goes."""

    reason: str
    comes: Callable[[World], Any]
    goes: Callable[[World], Any]


async def _right_goes(world: World) -> None:
    await world.rights(*BUT_SECRETS, may_read_secrets=False)


async def _right_comes(world: World) -> None:
    await world.rights(EVERYTHING, may_read_secrets=True)


def _pool_goes(world: World) -> None:
    world.stage.api.delete(world.stage.of(GROUP, "expertpools", "small"))


def _pool_comes(world: World) -> None:
    world.stage.api.create(world.stage.of(GROUP, "expertpools"), documents()[1][0])


def _secret_goes(world: World) -> None:
    world.stage.api.delete(world.stage.of("/api/v1", "secrets", "bus"))


def _secret_comes(world: World) -> None:
    world.stage.api.create(world.stage.of("/api/v1", "secrets"), SECRET)


def _overlay_comes(world: World) -> None:
    world.spec(rollout={"podTemplate": {"spec": {"restartPolicy": "Never"}}})


def _overlay_goes(world: World) -> None:
    world.spec(rollout={"podTemplate": None})


CAUSES = {
    "a-pool-is-deleted": Cause("PoolNotFound", _pool_goes, _pool_comes),
    "a-secret-is-deleted": Cause("SecretNotFound", _secret_goes, _secret_comes),
    "an-overlay-is-wrong": Cause("InvalidPodTemplate", _overlay_comes, _overlay_goes),
    "a-right-is-lost": Cause("Forbidden", _right_goes, _right_comes),
}


async def _done(what: Any) -> None:
    if what is not None:
        await what


@pytest.fixture
async def world(cluster: Cluster, namespace: str, nats_server: NatsServer, bus: Client) -> AsyncIterator[World]:
    """A training that runs its first attempt."""
    api, user = cluster.api, f"operator-{namespace}"[:60].strip("-")
    rbac = f"/apis/{RBAC}/v1/namespaces/{namespace}"
    api.create(f"{rbac}/roles", {"metadata": {"name": "operator"}, "rules": [EVERYTHING]})
    subject = {"kind": "User", "name": user, "apiGroup": RBAC}
    role = {"apiGroup": RBAC, "kind": "Role", "name": "operator"}
    api.create(f"{rbac}/rolebindings", {"metadata": {"name": "operator"}, "roleRef": role, "subjects": [subject]})
    images = {"cpu_image": "cpu:1", "gpu_image": "gpu:1", "worker_image": "worker:1"}
    settings = Settings.model_validate({"nats_url": nats_server.url, **images})
    async with await ApiServer.connect(cluster.own.kubeconfig_of(user), timeout=60) as server:
        stage, operator = Stage(api, namespace, bus), LookingOperator(server, settings)
        world = World(stage, operator, server)
        await _right_comes(world)
        _secret_comes(world)
        stage.submit(**TOLD_BY_A_SECRET, startDeadlineSeconds=600, activeDeadlineSeconds=7200)
        for pool in ("small", "large"):
            await operator.settles(namespace, pool, kind="ExpertPool")
        await world.rests(accepted=True)
        await world.runs(1, step=1)
        yield world
        await operator.close()


@pytest.mark.parametrize("cause", CAUSES.values(), ids=CAUSES.keys())
async def test_a_refusal_keeps_back_what_would_be_made_and_no_end(world: World, cause: Cause) -> None:
    stage = world.stage
    await _done(cause.comes(world))
    await world.rests(accepted=False)
    assert stage.condition("Running") == ("True", "Training"), "both are said"
    await stage.tells(1, 3)
    await world.rests(accepted=False)
    assert stage.status()["step"] == 3, "it is still told how far it is"

    stage.head_ends(1, 1, message="ValueError: boom")
    await world.rests(accepted=False)
    stage.collect_pods()
    await world.rests(accepted=False)
    assert (stage.status()["attempt"], stage.status()["restarts"]) == (2, 1)
    assert (stage.jobs(1), stage.jobs(2)) == ({}, {}), "compute of the failed one is given back, and no other is made"
    await _done(cause.goes(world))
    await world.rests(accepted=True)
    await world.runs(2, step=5)

    await _done(cause.comes(world))
    world.spec(suspend=True)
    await world.rests(accepted=False)
    assert stage.condition("Suspended") == ("True", "SuspendedByUser")
    assert (stage.jobs(2), world.workers()) == ({}, False)
    world.spec(suspend=False)
    await world.rests(accepted=False)
    assert (stage.jobs(3), world.workers()) == ({}, False)
    await _done(cause.goes(world))
    await world.rests(accepted=True)
    await world.runs(3, step=9)

    await _done(cause.comes(world))
    await stage.tells(3, 10, state="Complete")
    stage.head_ends(3, 0)
    await world.operator.settles(stage.namespace, stage.name)
    assert stage.condition("Complete") == ("True", "StepsDone")
    assert stage.status()["exportURI"].endswith("/export/last")
    assert (set(stage.jobs(3)), world.workers()) == ({"head"}, False)
    world.operator.now += timedelta(days=1, seconds=1)
    await world.operator.settles(stage.namespace, stage.name)
    assert stage.jobs(3) == {}
    assert await stage.streams(stage.names.short_uid) == []
    assert world.reasons == {cause.reason}


@pytest.mark.parametrize(("seconds", "reason"), [(7201, "ActiveDeadlineExceeded"), (900, "StartDeadlineExceeded")])
async def test_deadlines_pass_and_a_failed_one_is_deleted(world: World, seconds: int, reason: str) -> None:
    stage = world.stage
    if reason == "StartDeadlineExceeded":
        await stage.tells(1, 0, state="Starting")
    _pool_goes(world)
    await world.rests(accepted=False)
    world.operator.now += timedelta(seconds=seconds)
    await world.operator.settles(stage.namespace, stage.name)
    assert stage.condition("Failed") == ("True", reason)
    world.operator.now += timedelta(seconds=601)
    await world.operator.settles(stage.namespace, stage.name)
    assert (stage.jobs(1), world.workers()) == ({}, False)
    uid = stage.names.short_uid
    world.operator.now -= timedelta(seconds=seconds + 601)  # the deletion is the API server's, of now
    stage.api.delete(stage.path(stage.name))
    await world.operator.settles(stage.namespace, stage.name)
    with pytest.raises(Refused, match="not found"):
        stage.live()
    assert await stage.streams(uid) == []
