"""The comparison against a model of server-side apply: what an apply leaves is no difference, whatever was applied."""

from __future__ import annotations

import copy
import random
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from support.cluster.apply_model import ApplyModel
from support.cluster.openapi_excerpt import schemas
from support.edits import other_than, removable, respelled, scalars
from support.manifest_strategies import manifests, pairs
from toolorchestra_operator.kubernetes.canonical import differences
from toolorchestra_operator.kubernetes.openapi import Schema

US = "toolorchestra"


def seen(wanted: dict[str, Any], live: dict[str, Any]) -> tuple[str, ...]:
    return differences(wanted, live, manager=US, schemas=schemas())


def schema_of(manifest: dict[str, Any]) -> Schema:
    return schemas().schema(manifest["apiVersion"], manifest["kind"])


@settings(deadline=None)
@given(manifests())
def test_what_was_applied_is_no_difference(wanted: dict[str, Any]) -> None:
    assert seen(wanted, ApplyModel(schemas()).apply(wanted, manager=US)) == ()


@settings(deadline=None)
@given(pairs())
def test_an_apply_after_another_is_no_difference_either(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    one, other = pair
    model = ApplyModel(schemas())
    model.apply(one, manager=US)
    assert seen(other, model.apply(other, manager=US)) == ()


@settings(deadline=None)
@given(manifests(), st.data())
def test_any_change_of_what_is_wanted_is_seen_and_heals(wanted: dict[str, Any], data: st.DataObject) -> None:
    model = ApplyModel(schemas())
    live = model.apply(wanted, manager=US)
    changed = copy.deepcopy(wanted)
    places = list(scalars(changed))
    assume(places)
    parent, key = data.draw(st.sampled_from(places))
    parent[key] = other_than(parent[key])
    assert seen(changed, live)
    assert seen(changed, model.apply(changed, manager=US)) == ()


@settings(deadline=None)
@given(manifests(), st.data())
def test_any_change_of_what_is_there_is_seen_and_heals(wanted: dict[str, Any], data: st.DataObject) -> None:
    model = ApplyModel(schemas())
    edited = model.apply(wanted, manager=US)
    places = list(scalars(edited))
    assume(places)
    parent, key = data.draw(st.sampled_from(places))
    assume(is_wanted((parent, key), edited, wanted))
    parent[key] = other_than(parent[key])
    assert seen(wanted, model.update(edited, manager="kubectl-edit"))
    assert seen(wanted, model.apply(wanted, manager=US)) == ()


@settings(deadline=None)
@given(manifests(), st.data())
def test_what_is_no_longer_wanted_is_seen_and_heals(wanted: dict[str, Any], data: st.DataObject) -> None:
    model = ApplyModel(schemas())
    live = model.apply(wanted, manager=US)
    fewer = copy.deepcopy(wanted)
    places = list(removable(fewer, schema_of(fewer)))
    assume(places)
    parent, key = data.draw(st.sampled_from(places))
    del parent[key]
    assert seen(fewer, live)
    assert seen(fewer, model.apply(fewer, manager=US)) == ()


def injection(kind: str) -> dict[str, Any]:
    """What a second manager puts into objects that are ours: in lists and maps of ours, and in fields of its own."""
    pod = {"containers": [{"name": "sidecar", "image": "mesh"}], "priorityClassName": "high"}
    ports = {"ports": [{"port": 99, "name": "metrics"}]}
    return {
        "Deployment": {"spec": {"template": {"spec": pod}, "minReadySeconds": 4}},
        "Job": {"spec": {"template": {"spec": pod}, "parallelism": 4}},
        "Service": {"spec": {**ports, "sessionAffinity": "ClientIP"}},
        "ConfigMap": {"data": {"injected": "1"}},
        "PersistentVolumeClaim": {"spec": {"volumeName": "pv-1"}},
        "NetworkPolicy": {"spec": {"policyTypes": ["Ingress"]}},
        "RayJob": {"spec": {"ttlSecondsAfterFinished": 4}},
    }[kind]


@settings(deadline=None)
@given(manifests())
def test_a_second_manager_adds_and_is_not_fought(wanted: dict[str, Any]) -> None:
    model = ApplyModel(schemas())
    model.apply(wanted, manager=US)
    about = {key: wanted[key] for key in ("apiVersion", "kind")}
    metadata = {"name": "thing", "labels": {"theirs": "1"}, "annotations": {"their/a": "b"}, "finalizers": ["their/f"]}
    live = model.apply({**about, "metadata": metadata, **injection(wanted["kind"])}, manager="kueue")
    assert live["metadata"]["labels"]["theirs"] == "1"
    assert seen(wanted, live) == ()
    assert model.apply(wanted, manager=US)["metadata"]["labels"]["theirs"] == "1"


@settings(deadline=None)
@given(manifests(), st.randoms(use_true_random=False))
def test_order_and_spelling_do_not_matter(wanted: dict[str, Any], chance: random.Random) -> None:
    live = ApplyModel(schemas()).apply(wanted, manager=US)
    assert seen(respelled(wanted, schema_of(wanted), chance), live) == ()


@settings(deadline=None)
@given(manifests())
def test_when_nothing_is_wanted_all_that_was_is_a_removal(wanted: dict[str, Any]) -> None:
    live = ApplyModel(schemas()).apply(wanted, manager=US)
    bare = {key: wanted[key] for key in ("apiVersion", "kind")} | {"metadata": {"name": "thing"}}
    had_fields = any(key not in ("apiVersion", "kind", "metadata") for key in wanted)
    assert bool(seen(bare, live)) >= had_fields


def is_wanted(place: tuple[Any, Any], live: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Whether the scalar at a place of the live object is named by what is wanted."""
    parent, key = place
    before = parent[key]
    parent[key] = "a value that nobody wants"
    found = ApplyModel(schemas())
    found.live = copy.deepcopy(live)
    named = found.apply(wanted, manager=US) != live
    parent[key] = before
    return named and "a value that nobody wants" not in str(found.live)
