"""The apply engine on a real API server: what it applied is no difference, what changed is seen, others are not fought.

The server itself is the judge: a dry-run apply says whether a manifest would change anything, and the comparison has to
say the same, for a change at every place of an object of every kind.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

import pytest

from support.edits import content, other_than, removable, respelled, scalars
from support.representative import SPECS, representative
from testbed.api import Api
from toolorchestra.contract.labels import MANAGER
from toolorchestra.kube.errors import Forbidden, Invalid
from toolorchestra_operator.kubernetes.api_server import ApiServer
from toolorchestra_operator.kubernetes.canonical import differences
from toolorchestra_operator.kubernetes.kinds import RAY_JOB
from toolorchestra_operator.kubernetes.manifest import Manifest, Ref
from toolorchestra_operator.kubernetes.openapi import Schemas


@pytest.fixture(params=sorted(SPECS), ids=lambda about: about[1])
def about(request: pytest.FixtureRequest) -> tuple[str, str]:
    """(apiVersion, kind) of everything that the operator makes; RayJobs only where KubeRay's CRDs are."""
    chosen: tuple[str, str] = request.param
    if chosen == RAY_JOB:
        request.getfixturevalue("kuberay")
    return chosen


async def seen(server: ApiServer, wanted: Manifest, live: Manifest) -> tuple[str, ...]:
    return differences(wanted, live, manager=MANAGER, schemas=await server.openapi())


async def test_what_was_applied_is_no_difference(server: ApiServer, namespace: str, about: tuple[str, str]) -> None:
    wanted = representative(*about, namespace=namespace)
    applied = await server.apply(wanted)
    assert await seen(server, wanted, applied) == ()
    live = await server.get(Ref.of(wanted))
    assert live is not None
    assert await seen(server, wanted, live) == ()
    assert content(await server.apply(wanted)) == content(live)


async def test_order_and_spelling_do_not_matter(server: ApiServer, namespace: str, about: tuple[str, str]) -> None:
    wanted = representative(*about, namespace=namespace)
    live = await server.apply(wanted)
    schema = (await server.openapi()).schema(*about)
    for seed in range(5):
        said_otherwise = respelled(wanted, schema, random.Random(seed))
        assert await seen(server, said_otherwise, live) == ()


async def test_the_server_judges_every_change_alike(server: ApiServer, namespace: str, about: tuple[str, str]) -> None:
    wanted = representative(*about, namespace=namespace)
    live = await server.apply(wanted)
    schemas = await server.openapi()
    judged = 0
    for what, changed in changes(wanted, schemas):
        try:
            after = await server.apply(changed, dry_run=True)
        except (Invalid, Forbidden):
            continue
        judged += 1
        says = differences(changed, live, manager=MANAGER, schemas=schemas)
        if content(after) != content(live):
            assert says, f"{what}: not seen"
        elif ours(after) == ours(live):
            assert not says, f"{what}: seen where nothing would change"
        assert await seen(server, changed, after) == (), what
    assert judged >= 3


def changes(wanted: Manifest, schemas: Schemas) -> Iterator[tuple[str, dict[str, Any]]]:
    """The manifest with one value changed, and with one left out, at every place."""
    schema = schemas.schema(wanted["apiVersion"], wanted["kind"])
    for index in range(len(list(scalars(copy.deepcopy(dict(wanted)))))):
        changed = copy.deepcopy(dict(wanted))
        parent, key = list(scalars(changed))[index]
        parent[key] = other_than(parent[key])
        yield f"changed {key} to {parent[key]!r}", changed
    for index in range(len(list(removable(copy.deepcopy(dict(wanted)), schema)))):
        changed = copy.deepcopy(dict(wanted))
        parent, key = list(removable(changed, schema))[index]
        gone = parent[key]
        del parent[key]
        yield f"left out {key}: {gone!r}", changed


def ours(manifest: Manifest) -> Any:
    """Which fields we own."""
    return [entry["fieldsV1"] for entry in manifest["metadata"]["managedFields"] if entry["manager"] == MANAGER]


async def test_a_real_change_is_seen_and_applied(server: ApiServer, namespace: str) -> None:
    wanted = representative("apps/v1", "Deployment", namespace=namespace)
    live = await server.apply(wanted)
    changed = copy.deepcopy(wanted)
    changed["spec"]["template"]["spec"]["containers"][0]["args"][1] = "/models/other"
    del changed["spec"]["template"]["spec"]["containers"][0]["env"][0]
    changed["spec"]["replicas"] = 3
    at = "spec.template.spec.containers[name=vllm]"
    args = '["--model", "/models/{}", "--port", "8000"]'
    assert set(await seen(server, changed, live)) == {
        "spec.replicas: 3 is wanted, 2 is there",
        f"{at}.args: {args.format('other')} is wanted, {args.format('qwen')} is there",
        f"{at}.env[name=HF_HUB_OFFLINE]: no longer wanted",
    }
    applied = await server.apply(changed)
    assert applied["spec"]["replicas"] == 3
    assert "HF_HUB_OFFLINE" not in str(applied["spec"])
    assert await seen(server, changed, applied) == ()


async def test_an_edit_by_hand_is_seen_and_undone(server: ApiServer, api: Api, namespace: str) -> None:
    wanted = representative("v1", "Service", namespace=namespace)
    await server.apply(wanted)
    edit = {"spec": {"selector": {"toolorchestra.dev/pool": None, "app": "mine"}}, "metadata": {"labels": None}}
    edited = api.merge(f"/api/v1/namespaces/{namespace}/services/qwen", edit, manager="kubectl-edit")
    found = await seen(server, wanted, edited)
    assert 'metadata.labels[toolorchestra.dev/pool]: "qwen" is wanted, is not there' in found
    assert any(line.startswith("spec.selector") for line in found)
    assert await seen(server, wanted, await server.apply(wanted)) == ()


async def test_a_false_that_somebody_removed_is_seen(server: ApiServer, api: Api, namespace: str) -> None:
    """The server drops some falses itself; that one it does not."""
    wanted = representative("v1", "ServiceAccount", namespace=namespace)
    await server.apply(wanted)
    path = f"/api/v1/namespaces/{namespace}/serviceaccounts/qwen"
    edited = api.merge(path, {"automountServiceAccountToken": None}, manager="kubectl-edit")
    assert await seen(server, wanted, edited) == ("automountServiceAccountToken: false is wanted, is not there",)


async def test_a_secret_is_compared_and_never_shown(server: ApiServer, namespace: str) -> None:
    wanted = representative("v1", "Secret", namespace=namespace)
    live = await server.apply(wanted)
    other = {**wanted, "stringData": {"plain": "another"}}
    assert await seen(server, other, live) == ("data.plain: a value is wanted, a value is there",)


async def test_a_second_manager_is_not_fought(server: ApiServer, api: Api, namespace: str) -> None:
    wanted = representative("apps/v1", "Deployment", namespace=namespace)
    del wanted["spec"]["replicas"]
    wanted["spec"]["template"] = copy.deepcopy(wanted["spec"]["template"])
    del wanted["spec"]["template"]["spec"]["nodeSelector"]
    await server.apply(wanted)
    pod = {
        "nodeSelector": {"zone": "b"},
        "containers": [
            {"name": "mesh", "image": "mesh:1"},
            {"name": "vllm", "env": [{"name": "INJECTED", "value": "1"}]},
        ],
    }
    theirs = {
        **{key: wanted[key] for key in ("apiVersion", "kind")},
        "metadata": {"name": "qwen", "labels": {"theirs": "1"}, "annotations": {"theirs/a": "b"}},
        "spec": {"replicas": 7, "template": {"spec": pod}},
    }
    path = f"/apis/apps/v1/namespaces/{namespace}/deployments/qwen"
    injected = api.apply(path, theirs, manager="autoscaler")
    assert await seen(server, wanted, injected) == ()
    changed = {**wanted, "spec": {**wanted["spec"], "minReadySeconds": 9}}
    assert await seen(server, changed, injected)
    applied = await server.apply(changed)
    assert applied["spec"]["minReadySeconds"] == 9
    assert applied["spec"]["replicas"] == 7
    assert applied["spec"]["template"]["spec"]["nodeSelector"] == {"zone": "b"}
    assert {one["name"] for one in applied["spec"]["template"]["spec"]["containers"]} == {"vllm", "mesh"}
    assert "INJECTED" in str(applied["spec"])
    assert applied["metadata"]["labels"]["theirs"] == "1"
