"""The adapter on a real API server: preconditions, sub-resources, refusals in the server's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kubernetes.config import new_client_from_config

from support.representative import a_pool, representative
from testbed.api import Api
from testbed.cluster import Cluster
from toolorchestra.cluster_client.kube import Kube
from toolorchestra.contract.labels import FINALIZER
from toolorchestra.kube.errors import ApiError, Conflict, Forbidden, Invalid, NotFound
from toolorchestra.kube.kinds import CONFIG_MAPS, MADE
from toolorchestra_operator.kubernetes.api_server import ApiServer
from toolorchestra_operator.kubernetes.kinds import RAY_JOB
from toolorchestra_operator.kubernetes.manifest import Ref


async def a_parent(server: ApiServer, namespace: str) -> dict[str, Any]:
    return await server.create(a_pool(namespace=namespace))


async def test_the_whole_status_is_replaced_and_only_of_the_parent_that_was_seen(
    server: ApiServer, api: Api, namespace: str
) -> None:
    parent = await a_parent(server, namespace)
    ref, uid = Ref.of(parent), parent["metadata"]["uid"]
    await server.patch_status(ref, {"replicas": 2, "url": "http://a", "readyReplicas": 1}, uid=uid)
    api.merge(f"/apis/{ref.api_version}/namespaces/{namespace}/expertpools/qwen/status", {"status": {"selector": "x"}})
    changed = await server.patch_status(ref, {"replicas": 3}, uid=uid)
    assert changed is not None
    assert changed["status"] == {"replicas": 3, "conditions": []}
    version = changed["metadata"]["resourceVersion"]
    same = await server.patch_status(ref, {"replicas": 3}, uid=uid)
    assert same is not None
    assert same["metadata"]["resourceVersion"] == version
    assert await server.patch_status(ref, {"replicas": 4}, uid="another") is None
    with pytest.raises(Invalid, match="url"):
        await server.patch_status(ref, {"url": "no url"}, uid=uid)
    await server.delete(ref, uid=uid)
    assert await server.patch_status(ref, {"replicas": 4}, uid=uid) is None


async def test_a_finalizer_comes_and_goes_and_others_stay(server: ApiServer, api: Api, namespace: str) -> None:
    parent = await a_parent(server, namespace)
    ref = Ref.of(parent)
    path = f"/apis/{ref.api_version}/namespaces/{namespace}/expertpools/qwen"
    api.merge(path, {"metadata": {"finalizers": ["example.org/theirs"]}})
    for present in (True, True, False, False):
        live = await server.set_finalizer(ref, present)
        assert live is not None
        assert live["metadata"]["finalizers"] == ["example.org/theirs", *([FINALIZER] if present else [])]
    assert await server.set_finalizer(Ref(ref.api_version, ref.kind, namespace, "none"), True) is None


async def test_a_delete_names_what_was_seen(server: ApiServer, namespace: str) -> None:
    first = await a_parent(server, namespace)
    ref = Ref.of(first)
    assert await server.delete(ref, uid=first["metadata"]["uid"])
    second = await a_parent(server, namespace)
    assert not await server.delete(ref, uid=first["metadata"]["uid"])
    assert await server.get(ref) is not None
    assert await server.delete(ref, uid=second["metadata"]["uid"])
    assert not await server.delete(ref, uid=second["metadata"]["uid"])
    assert await server.get(ref) is None


async def test_an_apply_goes_to_the_object_that_was_seen(server: ApiServer, namespace: str) -> None:
    wanted = representative("v1", "ConfigMap", namespace=namespace)
    live = await server.apply(wanted)
    another = {**wanted["metadata"], "uid": "6a3c1c1e-0000-4000-8000-00000000000f"}
    with pytest.raises(Conflict):
        await server.apply({**wanted, "metadata": another})
    await server.delete(Ref.of(wanted), uid=live["metadata"]["uid"])
    with pytest.raises(Conflict):
        await server.apply({**wanted, "metadata": {**wanted["metadata"], "uid": live["metadata"]["uid"]}})


async def test_refusals_say_what_is_wrong(server: ApiServer, namespace: str) -> None:
    wanted = representative("apps/v1", "Deployment", namespace=namespace)
    with pytest.raises(Invalid) as told:
        await server.apply({**wanted, "spec": {**wanted["spec"], "replicas": -1}})
    assert told.value.field == "spec.replicas"
    with pytest.raises(ApiError, match=r"spec\.replica"):
        await server.apply({**wanted, "spec": {**wanted["spec"], "replica": 1}})
    with pytest.raises(NotFound, match="nowhere"):
        await server.apply(representative("v1", "ConfigMap", namespace="nowhere"))
    assert await server.get(Ref("v1", "ConfigMap", "nowhere", "x")) is None


async def test_a_user_without_rights(cluster: Cluster, namespace: str, tmp_path: Path) -> None:
    async with await ApiServer.connect(cluster.own.kubeconfig_of("nobody")) as nobody:
        with pytest.raises(Forbidden, match='User "nobody" cannot patch resource "configmaps"'):
            await nobody.apply(representative("v1", "ConfigMap", namespace=namespace))
        with pytest.raises(Forbidden):
            await nobody.get(Ref("v1", "Secret", namespace, "x"))


async def test_any_character_is_applied(server: ApiServer, cluster: Cluster, namespace: str) -> None:
    """Beyond U+FFFF too, which JSON writes as surrogates, and the API server's reader of applied objects refuses."""
    data = {"rocket": "🚀 \\🚀 \\ud83d\\ude80", "odd": "\U0010ffff \ufeff \u2028 \x7f \x85 é"}
    wanted = {**representative("v1", "ConfigMap", namespace=namespace, name="ours"), "data": data}
    assert (await server.apply(wanted))["data"] == data
    found = await server.get(Ref("v1", "ConfigMap", namespace, "ours"))
    assert found is not None
    assert found["data"] == data
    theirs = Kube(new_client_from_config(str(cluster.kubeconfig)), namespace)
    assert theirs.apply(CONFIG_MAPS, {**wanted, "metadata": {"name": "cli", "namespace": namespace}})["data"] == data


async def test_lists_in_pages(server: ApiServer, namespace: str) -> None:
    for index in range(5):
        await server.apply(representative("v1", "ConfigMap", namespace=namespace, name=f"c{index}"))
    found = await server.list("v1", "ConfigMap", namespace=namespace, labels="toolorchestra.dev/pool=qwen", chunk=2)
    assert sorted(one["metadata"]["name"] for one in found) == [f"c{index}" for index in range(5)]
    assert {(one["apiVersion"], one["kind"]) for one in found} == {("v1", "ConfigMap")}


@pytest.mark.usefixtures("kuberay")
async def test_every_kind_that_is_made_has_a_schema(server: ApiServer) -> None:
    schemas = await server.openapi()
    assert [kind for kind in MADE if kind.key not in schemas] == []
    assert await server.served(*RAY_JOB)
    assert not await server.served("kueue.x-k8s.io/v1beta1", "Workload")
