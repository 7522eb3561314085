"""Plans on a real API server: killed and repeated, passes that write nothing, and what belongs to others."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from support.edits import content
from support.representative import SPECS, a_pool, representative
from testbed.api import Api
from testbed.cluster import Cluster
from toolorchestra.contract.labels import MANAGER
from toolorchestra.kube.errors import Conflict
from toolorchestra_operator.kubernetes.api_server import ApiServer
from toolorchestra_operator.kubernetes.canonical import differences
from toolorchestra_operator.kubernetes.kinds import RAY_JOB
from toolorchestra_operator.kubernetes.manifest import Manifest, Ref
from toolorchestra_operator.planning.carry_out import NameTaken, carry_out
from toolorchestra_operator.planning.plan import Apply, Create, Delete, Emit, Plan, SetFinalizer


async def a_parent(server: ApiServer, namespace: str) -> dict[str, Any]:
    return await server.create(a_pool(namespace=namespace))


class Killed(BaseException):
    """The operator's process, ended."""


class DyingApi:
    """An ApiServer whose process ends right after its nth write."""

    def __init__(self, server: ApiServer, dies_after: int) -> None:
        self._server, self._left = server, dies_after
        self.get: Any = server.get

    def __getattr__(self, name: str) -> Any:
        async def write(*args: Any, **options: Any) -> Any:
            done = await getattr(self._server, name)(*args, **options)
            self._left -= 1
            if not self._left:
                raise Killed
            return done

        return write


class NoStreams:
    async def make(self, **_: Any) -> None:
        raise AssertionError("not planned")

    remove = make


async def emitted_nowhere(event: Emit) -> None:
    raise AssertionError(f"not planned: {event}")


async def do(plan: Plan, *, parent: Manifest, server: ApiServer | DyingApi) -> None:
    uid = parent["metadata"]["uid"]
    await carry_out(plan, parent=Ref.of(parent), api=server, streams=NoStreams(), emit=emitted_nowhere, uid=uid)


def of_parent(manifest: dict[str, Any], parent: Manifest) -> dict[str, Any]:
    """The manifest as this parent's."""
    owner = {**manifest["metadata"]["ownerReferences"][0], "uid": parent["metadata"]["uid"]}
    return {**manifest, "metadata": {**manifest["metadata"], "ownerReferences": [owner]}}


def plan_for(parent: Manifest, namespace: str, *, old: Manifest) -> Plan:
    made = [
        of_parent(representative(*about, namespace=namespace), parent) for about in sorted(SPECS) if about != RAY_JOB
    ]
    actions = [Create(one) if one["kind"] == "Job" else Apply(one) for one in made]
    delete = Delete(Ref.of(old), uid=old["metadata"]["uid"])
    return Plan(actions=(SetFinalizer(True), *actions, delete), status={"observedGeneration": 1, "replicas": 2})


async def test_killed_after_any_write_and_repeated_it_ends_the_same(server: ApiServer, namespace: str) -> None:
    ended = []
    for dies_after in (*range(1, 12), 0):
        parent = await a_parent(server, namespace)
        old = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "old", "namespace": namespace}}
        plan = plan_for(parent, namespace, old=await server.create(old))
        if dies_after:
            with pytest.raises(Killed):
                await do(plan, parent=parent, server=DyingApi(server, dies_after))
        await do(plan, parent=parent, server=server)
        ended.append(await state(server, plan, parent))
        await sweep(server, plan, parent)
    assert all(one == ended[-1] for one in ended)
    assert all(one is not None for one in ended[-1][0][1:-1])
    assert ended[-1][0][-1] is None


async def state(server: ApiServer, plan: Plan, parent: Manifest) -> Any:
    """Everything that the plan is about, without what differs from life to life."""
    refs = [action.ref if isinstance(action, Delete) else Ref.of(action.manifest) for action in plan.actions[1:]]  # type: ignore[union-attr]
    objects = [await server.get(ref) for ref in refs]
    live = await server.get(Ref.of(parent))
    assert live is not None
    of_old = str(parent["metadata"]["uid"])
    specs = [None, *(None if one is None else timeless(one, of_old) for one in objects)]
    return specs, live["status"], live["metadata"]["finalizers"]


def timeless(live: Manifest, parent_uid: str) -> str:
    found = content(live)
    for name in ("uid", "creationTimestamp"):
        found["metadata"].pop(name)
    text = repr(found).replace(parent_uid, "the parent")
    return text.replace(live["metadata"]["uid"], "itself")


async def sweep(server: ApiServer, plan: Plan, parent: Manifest) -> None:
    for action in plan.actions:
        if isinstance(action, Apply | Create):
            live = await server.get(Ref.of(action.manifest))
            assert live is not None
            await server.set_finalizer(Ref.of(live), False, name="kubernetes.io/pvc-protection")
            await server.delete(Ref.of(live), uid=live["metadata"]["uid"], propagation="Background")
    await server.set_finalizer(Ref.of(parent), False)
    await server.delete(Ref.of(parent), uid=parent["metadata"]["uid"])


async def test_a_second_pass_writes_nothing(server: ApiServer, cluster: Cluster, namespace: str) -> None:
    log, schemas = cluster.audit_log, await server.openapi()
    wanted = [
        representative(*about, namespace=namespace, name=f"n{i}")
        for about in sorted(SPECS)
        if about != RAY_JOB
        for i in range(3)
    ]
    parent = await a_parent(server, namespace)
    wanted = [of_parent(one, parent) for one in wanted]

    async def one_pass() -> int:
        since = log.position()
        found = [(one, await server.get(Ref.of(one))) for one in wanted]
        needed = [
            Apply(one)
            for one, live in found
            if live is None or differences(one, live, manager=MANAGER, schemas=schemas)
        ]
        await do(Plan(actions=tuple(needed)), parent=parent, server=server)
        return len(log.writes(since=since, user_agent="toolorchestra-operator", namespace=namespace))

    assert await one_pass() == len(wanted) >= 20
    assert [await one_pass() for _ in range(3)] == [0, 0, 0]


@pytest.mark.usefixtures("kuberay")
async def test_a_rayjob_is_made_once_and_its_second_manager_left_alone(
    server: ApiServer, api: Api, namespace: str
) -> None:
    parent = await a_parent(server, namespace)
    job = of_parent(representative(*RAY_JOB, namespace=namespace, name="t-1"), parent)
    await do(Plan(actions=(Create(job),)), parent=parent, server=server)
    path = f"/apis/ray.io/v1/namespaces/{namespace}/rayjobs/t-1"
    live = api.get(path)
    groups = copy.deepcopy(live["spec"]["rayClusterSpec"]["workerGroupSpecs"])
    groups[0]["template"]["spec"]["nodeSelector"] = {"kueue/flavour": "a100"}
    taken = {
        **{key: job[key] for key in ("apiVersion", "kind")},
        "metadata": {"name": "t-1"},
        "spec": {"suspend": False, "rayClusterSpec": {**live["spec"]["rayClusterSpec"], "workerGroupSpecs": groups}},
    }
    injected = api.apply(path, taken, manager="kueue")
    await do(Plan(actions=(Create(job),)), parent=parent, server=server)
    assert api.get(path) == injected
    assert injected["spec"]["suspend"] is False


async def test_a_name_that_is_anothers(server: ApiServer, api: Api, namespace: str) -> None:
    parent = await a_parent(server, namespace)
    theirs = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "qwen"}, "data": {"a": "theirs"}}
    api.create(f"/api/v1/namespaces/{namespace}/configmaps", theirs)
    wanted = of_parent(representative("v1", "ConfigMap", namespace=namespace), parent)
    for action in (Apply(wanted), Create(wanted)):
        with pytest.raises(NameTaken, match=r"ConfigMap .*/qwen is there already"):
            await do(Plan(actions=(action,)), parent=parent, server=server)
    live = await server.get(Ref.of(wanted))
    assert live is not None
    assert live["data"] == {"a": "theirs"}


async def test_what_was_decided_about_an_older_state_of_the_parent_is_not_done(
    server: ApiServer, api: Api, namespace: str
) -> None:
    """Two operators overlap: what the slower one decided is about a parent that the other has written to since."""
    parent = await a_parent(server, namespace)
    made = of_parent(representative("v1", "ConfigMap", namespace=namespace), parent)
    metadata = parent["metadata"]
    how: dict[str, Any] = {"api": server, "streams": NoStreams(), "emit": emitted_nowhere, "parent": Ref.of(parent)}
    how |= {"uid": metadata["uid"], "version": metadata["resourceVersion"]}
    await carry_out(Plan(actions=(SetFinalizer(True),), status={"observedGeneration": 1}), **how)
    for late in (Plan(actions=(Apply(made),)), Plan(status={"observedGeneration": 2})):
        with pytest.raises(Conflict):
            await carry_out(late, **how)
    assert await server.get(Ref.of(made)) is None
    live = await server.get(Ref.of(parent))
    assert live is not None
    assert live["status"]["observedGeneration"] == 1


async def test_what_comes_between_the_look_and_the_apply_is_not_taken_over(server: ApiServer, namespace: str) -> None:
    parent = await a_parent(server, namespace)
    wanted = of_parent(representative("v1", "ConfigMap", namespace=namespace), parent)
    theirs = {**wanted, "metadata": {"name": wanted["metadata"]["name"], "namespace": namespace}, "data": {"a": "b"}}

    async def get(ref: Ref) -> dict[str, Any] | None:
        found = await server.get(ref)
        if found is None and ref == Ref.of(wanted):
            await server.create(theirs)
        return found

    late = DyingApi(server, dies_after=0)
    late.get = get
    with pytest.raises(Conflict):
        await do(Plan((Apply(wanted),)), parent=parent, server=late)
    with pytest.raises(NameTaken):
        await do(Plan((Apply(wanted),)), parent=parent, server=server)
    live = await server.get(Ref.of(wanted))
    assert live is not None
    assert live["data"] == {"a": "b"}
    assert "ownerReferences" not in live["metadata"]
