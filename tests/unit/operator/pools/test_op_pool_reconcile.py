"""A pool's reconcile on a namespace in memory: what it makes, when it rolls, how it comes to rest."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.cluster.pool_world import GPU, RUNTIME, PoolWorld, endpoint_pool, vllm_pool, vllm_pools
from toolorchestra.api.pool import MeasuredService
from toolorchestra_operator.kubernetes.manifest import Ref
from toolorchestra_operator.planning.plan import Create
from toolorchestra_operator.pools.reconcile import reconcile
from toolorchestra_operator.pools.runtime import PoolRuntime
from toolorchestra_operator.pools.template import REFRESH_ANNOTATION

NEWER = PoolRuntime(gpu_image="gpu@sha256:2", cpu_image="cpu@sha256:2", otlp_endpoint="http://collector:4318")


@settings(max_examples=60, deadline=None)
@given(vllm_pools())
def test_it_comes_to_rest_over_generated_specs(pool: dict[str, Any]) -> None:
    world = PoolWorld(pool)
    world.settle()
    if world.says("Accepted")[0] == "True":
        assert world.refs() >= {ref for ref in world.names.refs if ref.kind != "PersistentVolumeClaim"}
    else:
        assert world.says("Accepted")[1] == "InvalidSpec"
        assert "s3://" in pool["spec"]["vllm"]["model"]["uri"]


@settings(max_examples=30, deadline=None)
@given(vllm_pools(), vllm_pools())
def test_it_comes_to_rest_after_any_edit(first: dict[str, Any], second: dict[str, Any]) -> None:
    second["spec"]["vllm"]["cache"] = first["spec"]["vllm"].get("cache")  # immutable
    world, fresh = PoolWorld(first), PoolWorld(second)
    world.settle()
    fresh.settle()
    world.parent["spec"] = copy.deepcopy(fresh.parent["spec"])
    world.parent["metadata"]["generation"] += 1
    world.settle()
    if world.says("Accepted")[0] == "True" and fresh.refs() and world.key() == fresh.key():
        assert world.template() == fresh.template(), "the history of a spec leaves nothing behind"


@settings(max_examples=30, deadline=None)
@given(vllm_pools())
def test_the_same_world_gives_the_same_plan(pool: dict[str, Any]) -> None:
    world = PoolWorld(pool)
    observed = world.observed()
    again = replace(copy.deepcopy(observed), schemas=observed.schemas)
    before = copy.deepcopy(observed.parent)
    assert reconcile(observed, world.now) == reconcile(again, world.now)
    assert observed.parent == before, "what is observed is not written to"


@settings(max_examples=30, deadline=None)
@given(vllm_pools(), st.integers(0, 7))
def test_killed_anywhere_it_ends_the_same(pool: dict[str, Any], first: int) -> None:
    world, undisturbed = PoolWorld(pool), PoolWorld(pool)
    world.carry_out(world.plan(), first=first)
    world.settle()
    undisturbed.settle()
    assert world.refs() == undisturbed.refs()
    if world.refs() and world.key() == undisturbed.key():
        assert world.template() == undisturbed.template()
    assert world.parent["status"] == undisturbed.parent["status"]


def test_an_operator_with_other_templates_rolls_nothing_until_asked() -> None:
    world = PoolWorld(vllm_pool())
    world.settle()
    before = world.template()
    world.runtime = NEWER
    world.settle()
    assert world.template() == before
    world.change(replicas=3, minAvailable=2)
    world.settle()
    assert world.template() == before, "scaling rolls nothing either"
    assert world.one("Deployment")["spec"]["replicas"] == 3
    world.parent["metadata"]["annotations"] = {REFRESH_ANNOTATION: "2030-01-01"}
    world.settle()
    assert world.container()["image"] == "cpu@sha256:2"
    assert "--otlp-traces-endpoint" in world.container()["command"]
    assert world.plan().empty


def test_a_changed_spec_rolls_with_the_newest_template() -> None:
    world = PoolWorld(vllm_pool())
    world.settle()
    world.runtime = NEWER
    world.change(maxModelLen=2048)
    world.settle()
    assert world.container()["image"] == "cpu@sha256:2"


def test_an_edit_by_hand_is_undone_to_the_recorded_template() -> None:
    world = PoolWorld(vllm_pool())
    world.settle()
    before = world.template()
    world.runtime = NEWER
    model = world.objects[world.names.deployment_ref]
    edited = copy.deepcopy(model.live)
    assert edited is not None
    edited["spec"]["template"]["spec"]["containers"][0]["image"] = "mine"
    model.update(edited, manager="kubectl-edit")
    world.settle()
    assert world.template() == before


def test_what_another_manager_adds_stays() -> None:
    world = PoolWorld(vllm_pool())
    world.settle()
    model = world.objects[world.names.deployment_ref]
    edited = copy.deepcopy(model.live)
    assert edited is not None
    edited["spec"]["template"]["metadata"]["annotations"]["kubectl.kubernetes.io/restartedAt"] = "now"
    model.update(edited, manager="kubectl-rollout")
    assert world.plan().empty


@pytest.mark.parametrize("index", range(5))
def test_what_is_deleted_by_hand_comes_back(index: int) -> None:
    world = PoolWorld(vllm_pool(cache={"type": "EphemeralClaim"}))
    world.settle()
    whole = world.refs()
    del world.objects[sorted(whole - {world.names.key_ref})[index]]
    world.settle()
    assert world.refs() == whole


def test_the_key_is_made_once_and_a_lost_one_rolls_the_replicas() -> None:
    world = PoolWorld(vllm_pool())
    world.settle()
    key, template = world.key(), world.template()
    assert key == "token-1"
    world.change(replicas=2)
    world.settle()
    assert (world.key(), world.template()) == (key, template)
    del world.objects[world.names.key_ref]
    world.settle()
    assert world.key() != key
    assert world.template() != template, "who holds the old key is replaced"
    model = world.objects[world.names.key_ref]
    assert model.live is not None
    model.live["data"] = {}
    world.settle()
    assert world.key().startswith("token-")


def test_a_secret_of_another_is_not_used() -> None:
    world = PoolWorld(vllm_pool())
    world.settle()
    model = world.objects[world.names.key_ref]
    assert model.live is not None
    model.live["metadata"]["ownerReferences"][0]["uid"] = "another"
    created = [action.manifest["kind"] for action in world.plan().actions if isinstance(action, Create)]
    assert created == ["Secret"], "carried out, it is refused: the name is taken"


def test_an_endpoint_has_no_objects() -> None:
    world = PoolWorld(endpoint_pool())
    world.settle()
    assert not world.refs()
    assert world.parent["status"]["url"] == "http://expert.example/v1"
    assert "servedModel" not in world.parent["status"]
    world.answers()
    world.settle()
    assert world.parent["status"]["servedModel"] == "oak"


def test_what_is_being_deleted_is_left_to_the_garbage_collector() -> None:
    world = PoolWorld(vllm_pool())
    world.parent["metadata"]["deletionTimestamp"] = "2030-01-01T00:00:00Z"
    assert world.plan().empty


def test_status_counts_and_says_where_before_anybody_serves() -> None:
    world = PoolWorld(vllm_pool(replicas=2))
    world.settle()
    status = {key: value for key, value in world.parent["status"].items() if key != "conditions"}
    assert status == {
        "observedGeneration": 1,
        "replicas": 0,
        "readyReplicas": 0,
        "ready": "0/2",
        "selector": "app.kubernetes.io/component=vllm,toolorchestra.dev/pool=qwen",
        "url": "http://qwen-vllm.default.svc:8000/v1",
        "servedModel": "qwen",
    }
    world.deployment_status(ready=2, replicas=2)
    world.settle()
    assert world.parent["status"]["ready"] == "2/2"


def test_scaled_to_zero_and_back() -> None:
    world = PoolWorld(vllm_pool(replicas=1))
    world.settle()
    world.deployment_status(ready=1, replicas=1)
    world.answers()
    world.settle()
    assert world.says("Ready")[0] == "True"
    world.change(replicas=0)
    world.answer = None
    world.deployment_status(ready=0, replicas=0)
    world.settle()
    assert world.one("Deployment")["spec"]["replicas"] == 0
    assert world.one("PodDisruptionBudget")["spec"]["minAvailable"] == 0
    assert world.says("Ready") == ("False", "ScaledToZero", "spec.vllm.replicas is 0")
    assert world.parent["status"]["ready"] == "0/0"
    assert world.parent["status"]["url"], "a training under way still knows where it was"
    world.change(replicas=1)
    world.settle()
    world.deployment_status(ready=1, replicas=1)
    world.answers()
    world.settle()
    assert world.says("Ready")[0] == "True"


def test_what_is_measured_is_in_status_and_nothing_where_nobody_measures() -> None:
    world = PoolWorld(endpoint_pool())
    world.settle()
    assert "measured" not in world.parent["status"]
    world.measured = MeasuredService(latency_milliseconds_p50=12, at="2030-01-01T00:00:00Z")
    world.settle()
    assert world.parent["status"]["measured"] == {"latencyMillisecondsP50": 12, "at": "2030-01-01T00:00:00Z"}


def test_the_next_look_is_when_the_next_probe_is_due() -> None:
    world = PoolWorld(endpoint_pool())
    assert world.plan().requeue_after == 1.0, "an answer is awaited"
    world.answers()
    world.settle()
    assert world.plan().requeue_after == 60.0
    world.passes(50)
    assert world.plan().requeue_after == 10.0
    assert world.plan().empty, "that time passes is no news"


def test_a_pool_that_is_not_accepted_keeps_what_serves() -> None:
    world = PoolWorld(vllm_pool())
    world.settle()
    before = world.template()
    world.change(podTemplate={"spec": {"hostNetwork": True}})
    world.settle()
    assert world.says("Accepted")[:2] == ("False", "InvalidPodTemplate")
    assert world.template() == before
    assert world.says("Ready") == ("False", "NotReady", "Accepted: InvalidPodTemplate")
    world.change(podTemplate={"spec": {"nodeSelector": {"gpu": "h100"}}})
    world.settle()
    assert world.says("Accepted")[0] == "True"
    assert world.template()["spec"]["nodeSelector"] == {"gpu": "h100"}


def test_a_claim_is_made_only_where_one_is_asked_for() -> None:
    claim = Ref("v1", "PersistentVolumeClaim", "default", "qwen-cache")
    for cache, made in (
        (None, False),
        ({"type": "EphemeralClaim"}, True),
        ({"type": "ExistingClaim", "existingClaim": {"claimName": "weights"}}, False),
    ):
        world = PoolWorld(vllm_pool(resources=GPU, **({"cache": cache} if cache else {})), runtime=RUNTIME)
        world.settle()
        assert (claim in world.refs()) is made
