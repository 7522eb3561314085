"""The comparison case by case: what each message says, and where the server's words are subtle."""

from __future__ import annotations

import copy
from datetime import UTC, datetime
from typing import Any

import pytest

from support.cluster.apply_model import ApplyModel
from support.cluster.openapi_excerpt import schemas
from support.representative import SPECS, representative
from toolorchestra.contract.labels import MANAGER
from toolorchestra_operator.kubernetes.canonical import canonical, differences, normal
from toolorchestra_operator.kubernetes.openapi import UNTYPED, Schemas

KNOWN = [about for about in sorted(SPECS) if about in schemas()]


def seen(wanted: dict[str, Any], live: dict[str, Any]) -> tuple[str, ...]:
    return differences(wanted, live, manager=MANAGER, schemas=schemas())


def applied(wanted: dict[str, Any]) -> dict[str, Any]:
    return ApplyModel(schemas()).apply(wanted, manager=MANAGER)


def test_every_kind_that_is_made_is_known() -> None:
    assert len(KNOWN) == len(SPECS)


@pytest.mark.parametrize("about", KNOWN, ids=lambda about: about[1])
def test_what_the_operator_makes_is_no_difference_once_applied(about: tuple[str, str]) -> None:
    wanted = normal(representative(*about, namespace="team"))
    assert seen(wanted, applied(wanted)) == ()


def test_each_difference_has_its_path_and_both_values() -> None:
    wanted = representative("apps/v1", "Deployment", namespace="team")
    live = applied(wanted)
    container = live["spec"]["template"]["spec"]["containers"][0]
    container["image"] = "other"
    container["resources"]["limits"]["memory"] = "3Gi"
    del container["env"][0]
    live["metadata"]["labels"]["toolorchestra.dev/pool"] = "other"
    at = "spec.template.spec.containers[name=vllm]"
    image = f"example.org/vllm@sha256:{'0' * 64}"
    shown = f'"{image}"'[:80]
    assert seen(wanted, live) == (
        'metadata.labels[toolorchestra.dev/pool]: "qwen" is wanted, "other" is there',
        f'{at}.image: {shown}… is wanted, "other" is there',
        f"{at}.env[name=HF_HUB_OFFLINE]: is not there",
        f'{at}.resources.limits.memory: "2Gi" is wanted, "3Gi" is there',
    )


def test_nothing_is_there_yet() -> None:
    wanted = representative("v1", "ConfigMap", namespace="team")
    live = {**wanted, "metadata": {"name": "qwen", "namespace": "team"}, "data": None}
    assert any(line == 'data.a: "1" is wanted, is not there' for line in seen(wanted, live))
    assert any("ownerReferences[uid=" in line for line in seen(wanted, live))


def test_a_secret_is_never_shown() -> None:
    wanted = normal(representative("v1", "Secret", namespace="team"))
    live = applied(wanted)
    live["data"]["key"] = "b3RoZXI="
    del live["data"]["plain"]
    found = seen(wanted, live)
    assert found == ("data.key: a value is wanted, a value is there", "data.plain: a value is wanted, is not there")


def test_a_secrets_text_is_compared_as_the_data_that_it_becomes() -> None:
    wanted = representative("v1", "Secret", namespace="team")
    assert seen(wanted, applied(normal(wanted))) == ()
    assert "stringData" in wanted


def test_an_item_that_is_wanted_twice_is_said() -> None:
    wanted = representative("v1", "Service", namespace="team")
    live = applied(wanted)
    spec = copy.deepcopy(wanted["spec"])
    spec["ports"].append({"port": 8000, "protocol": "TCP"})
    assert seen({**wanted, "spec": spec}, live) == ("spec.ports[port=8000,protocol=TCP]: wanted twice",)


def test_what_is_no_quantity_is_a_difference_for_the_server_to_refuse() -> None:
    wanted = representative("v1", "PersistentVolumeClaim", namespace="team")
    live = applied(wanted)
    spec = {**wanted["spec"], "resources": {"requests": {"storage": "a lot"}}}
    found = seen({**wanted, "spec": spec}, live)
    assert found == ('spec.resources.requests.storage: "a lot" is wanted, "100Gi" is there',)


@pytest.mark.parametrize(("one", "other"), [(True, 1), (False, 0), (1, "1"), ("80", 80), (None, "")])
def test_values_of_two_types_differ(one: Any, other: Any) -> None:
    assert canonical([one], UNTYPED) != canonical([other], UNTYPED)


def test_a_port_is_no_quantity() -> None:
    wanted = representative("apps/v1", "Deployment", namespace="team")
    live = applied(wanted)
    live["spec"]["strategy"]["rollingUpdate"]["maxSurge"] = "1"
    assert seen(wanted, live) == ('spec.strategy.rollingUpdate.maxSurge: 1 is wanted, "1" is there',)


def test_fields_that_we_own_by_update_or_through_status_are_no_removals() -> None:
    """Made by create (an update to the server): what is in there was never applied, so nothing is taken away."""
    wanted = representative("v1", "ConfigMap", namespace="team")
    live = applied(wanted)
    live["metadata"]["managedFields"] += [
        {"manager": MANAGER, "operation": "Update", "fieldsV1": {"f:data": {"f:made": {}}}},
        {"manager": MANAGER, "operation": "Apply", "subresource": "status", "fieldsV1": {"f:status": {"f:x": {}}}},
        {"manager": "another", "operation": "Apply", "fieldsV1": {"f:data": {"f:theirs": {}}}},
    ]
    assert seen(wanted, live) == ()


def test_a_kind_without_a_schema_is_an_error() -> None:
    with pytest.raises(LookupError, match=r"no OpenAPI schema of new\.io/v1 Thing"):
        differences(
            {"apiVersion": "new.io/v1", "kind": "Thing", "metadata": {}},
            {"metadata": {}},
            manager=MANAGER,
            schemas=schemas(),
        )


def test_a_type_within_itself_and_the_older_merge_strategy() -> None:
    gvk = [{"group": "g.io", "version": "v1", "kind": "Tree"}]
    reference = {"$ref": "#/components/schemas/Tree"}
    strategy = {"x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "name"}
    node = {
        "properties": {
            "children": {"type": "array", "items": {"allOf": [reference], "default": {}}, **strategy},
            "words": {"type": "array", "items": {"type": "string"}, "x-kubernetes-patch-strategy": "merge"},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
        "x-kubernetes-group-version-kind": gvk,
    }
    tree = Schemas.of([{"components": {"schemas": {"Tree": node}}}]).schema("g.io/v1", "Tree")
    assert (tree.child("children").list_type, tree.child("children").keys) == ("map", ("name",))
    assert tree.child("words").list_type == "set"
    assert tree.child("free").child("anything") is UNTYPED
    assert tree.child("children").item.default == {}


def test_an_item_that_is_no_longer_wanted_is_said_by_its_key() -> None:
    wanted = representative("apps/v1", "Deployment", namespace="team")
    live = applied(wanted)
    fewer = copy.deepcopy(wanted)
    del fewer["spec"]["template"]["spec"]["containers"][0]["env"][1]
    at = "spec.template.spec.containers[name=vllm].env[name=EMPTY]"
    assert seen(fewer, live) == (f"{at}: no longer wanted",)


def test_finalizers_are_a_set() -> None:
    wanted = representative("v1", "ConfigMap", namespace="team")
    metadata = {**wanted["metadata"], "finalizers": ["a/x", "b/y"]}
    wanted = {**wanted, "metadata": metadata}
    live = applied(wanted)
    live["metadata"]["finalizers"] = ["theirs/z", "b/y", "a/x"]
    assert seen(wanted, live) == ()
    live["metadata"]["finalizers"] = ["theirs/z", "b/y"]
    assert seen(wanted, live) == ('metadata.finalizers["a/x"]: is not there',)
    fewer = {**wanted, "metadata": {**metadata, "finalizers": ["b/y"]}}
    assert seen(fewer, applied(wanted)) == ('metadata.finalizers["a/x"]: no longer wanted',)


def test_an_atomic_map_is_compared_whole() -> None:
    wanted = representative("apps/v1", "Deployment", namespace="team")
    live = applied(wanted)
    live["spec"]["template"]["spec"]["nodeSelector"]["zone"] = "b"
    assert seen(wanted, live) == (
        'spec.template.spec.nodeSelector: {"gpu": "a100"} is wanted, {"gpu": "a100", "zone": "b"} is there',
    )


def test_an_empty_struct_says_something() -> None:
    """`emptyDir: {}` is a kind of volume; an empty label selector selects all."""
    wanted = representative("apps/v1", "Deployment", namespace="team")
    live = applied(wanted)
    volume = live["spec"]["template"]["spec"]["volumes"][2]
    assert volume == {"name": "scratch", "emptyDir": {}}
    del volume["emptyDir"]
    live["metadata"]["managedFields"] = []
    assert "spec.template.spec.volumes[name=scratch].emptyDir: {} is wanted, is not there" in seen(wanted, live)
    policy = representative("networking.k8s.io/v1", "NetworkPolicy", namespace="team")
    live = applied(policy)
    live["spec"]["ingress"][0]["from"][0] = {}
    assert len(seen(policy, live)) == 1


def test_a_false_that_the_server_dropped_is_none_and_one_that_somebody_removed_is() -> None:
    wanted = representative("apps/v1", "Deployment", namespace="team")
    live = applied(wanted)
    assert "hostNetwork" not in live["spec"]["template"]["spec"]
    assert seen(wanted, live) == ()
    del live["spec"]["template"]["spec"]["enableServiceLinks"]
    model = ApplyModel(schemas())
    model.apply(wanted, manager=MANAGER)
    edited = model.update(live, manager="kubectl-edit")
    assert seen(wanted, edited) == ("spec.template.spec.enableServiceLinks: false is wanted, is not there",)


def test_what_tells_which_object_it_is_and_its_status_are_not_compared() -> None:
    """Items of a list come without kind and version; a status is written by another request."""
    wanted = representative("v1", "ConfigMap", namespace="team")
    live = applied(wanted)
    del live["apiVersion"], live["kind"]
    assert seen({**wanted, "status": {"told": "1"}}, live) == ()


def test_a_field_that_is_no_longer_wanted_is_said() -> None:
    wanted = representative("v1", "ConfigMap", namespace="team")
    assert seen({**wanted, "data": {}}, applied({**wanted, "data": {"a": "1"}})) == ("data.a: no longer wanted",)


def test_a_secret_may_have_text_alone() -> None:
    assert normal({"kind": "Secret", "stringData": {"a": "b"}}) == {"kind": "Secret", "data": {"a": "Yg=="}}


def test_what_is_empty_and_not_there_is_no_difference() -> None:
    """A map, an atomic map, an atomic list."""
    wanted = representative("apps/v1", "Deployment", namespace="team")
    pod = wanted["spec"]["template"]["spec"]
    del pod["nodeSelector"]
    pod["containers"][0].pop("command", None)
    wanted["metadata"].pop("annotations", None)
    live = applied(copy.deepcopy(wanted))
    pod["nodeSelector"], pod["containers"][0]["command"], wanted["metadata"]["annotations"] = {}, [], {}
    assert seen(wanted, live) == ()


def test_what_comes_after_an_item_that_is_wanted_twice_is_compared() -> None:
    wanted = representative("v1", "Service", namespace="team")
    ports = [*wanted["spec"]["ports"], wanted["spec"]["ports"][0], {"port": 1, "protocol": "TCP"}]
    *_, last = seen({**wanted, "spec": {**wanted["spec"], "ports": ports}}, applied(wanted))
    assert last == "spec.ports[port=1,protocol=TCP]: is not there"


def test_an_empty_set_takes_away_what_was_in_it() -> None:
    wanted = representative("v1", "ConfigMap", namespace="team")
    live = applied({**wanted, "metadata": {**wanted["metadata"], "finalizers": ["a/x"]}})
    fewer = {**wanted, "metadata": {**wanted["metadata"], "finalizers": []}}
    assert seen(fewer, live) == ('metadata.finalizers["a/x"]: no longer wanted',)


def test_an_item_without_fields_where_some_are_wanted_is_for_the_server_to_refuse() -> None:
    wanted = representative("v1", "Service", namespace="team")
    spec = {**wanted["spec"], "ports": ["http"]}
    assert 'spec.ports["http"]: is not there' in seen({**wanted, "spec": spec}, applied(wanted))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a" * 78, f'"{"a" * 78}"'),
        ("a" * 79, f'"{"a" * 79}…'),
        ("é", '"é"'),
        ({"b": 1, "a": 2}, '{"a": 2, "b": 1}'),
        (datetime(2030, 1, 1, tzinfo=UTC), '"2030-01-01 00:00:00+00:00"'),
    ],
    ids=["80 characters", "81", "a letter with an accent", "fields in order", "a time, as YAML has them"],
)
def test_a_value_is_shown_as_json_of_at_most_80_characters(value: Any, shown: str) -> None:
    wanted = representative("apps/v1", "Deployment", namespace="team")
    live = applied(wanted)
    wanted["spec"]["template"]["spec"]["nodeSelector"] = value
    (said,) = (line for line in seen(wanted, live) if ".nodeSelector" in line)
    assert said.startswith(f"spec.template.spec.nodeSelector: {shown} is wanted, ")
