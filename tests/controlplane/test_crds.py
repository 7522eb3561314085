"""The CRDs on a real API server: what it accepts, what it fills in, and how it words what it refuses."""

from __future__ import annotations

import copy
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings

from support.cluster.pool_world import vllm_pool
from support.mutated_examples import EXAMPLES, mutated
from testbed.api import Api, Refused
from testbed.cluster import Cluster
from toolorchestra.api.base import API_VERSION, GROUP, VERSION
from toolorchestra.api.crd import MAX_BYTES
from toolorchestra.api.documents import Document
from toolorchestra.api.kinds import CUSTOM_RESOURCES
from toolorchestra.api.load import read_resource
from toolorchestra.api.resource import Resource

REPOSITORY = Path(__file__).parents[2]
PLURALS = {"ExpertPool": "expertpools", "OrchestratorTraining": "orchestratortrainings"}
KINDS = frozenset(PLURALS)


def example_documents() -> Iterator[Any]:
    """Every custom resource in examples/, whatever else its file holds."""
    for path in sorted((REPOSITORY / "examples").rglob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text(encoding="utf-8")):
            if isinstance(document, dict) and document.get("kind") in KINDS:
                where = f"{path.relative_to(REPOSITORY)}:{document['metadata']['name']}"
                yield pytest.param(document, id=where)


def collection(namespace: str, kind: str) -> str:
    return f"/apis/{API_VERSION}/namespaces/{namespace}/{PLURALS[kind]}"


def model_of(data: dict[str, Any]) -> tuple[Resource | None, list[str]]:
    """What the models make of it: a resource, or their refusals."""
    resource, mistakes = read_resource(Document(file="x.yaml", index=1, data=data))
    return resource, [str(mistake) for mistake in mistakes]


def spec_of(resource: Resource) -> dict[str, Any]:
    dumped: dict[str, Any] = resource.model_dump(by_alias=True, mode="json", exclude_none=True)
    spec: dict[str, Any] = dumped["spec"]
    return spec


def minimal(kind: str) -> dict[str, Any]:
    """The least that a kind needs."""
    spec: dict[str, Any] = {
        "ExpertPool": {
            "roles": ["Answer"],
            "description": "any",
            "price": {"inputUSDPerMillionTokens": "1", "outputUSDPerMillionTokens": "1"},
            "expectedLatencyMilliseconds": 1000,
            "type": "Endpoint",
            "endpoint": {"url": "http://expert/v1", "model": "m"},
        },
        "OrchestratorTraining": yaml.safe_load((REPOSITORY / "examples/training-minimal.yaml").read_text())["spec"],
    }[kind]
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "minimal"}, "spec": spec}


def changed(data: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with the value at a dotted path replaced; with the value None the field is removed."""
    data = copy.deepcopy(data)
    *parents, last = path.split(".")
    inside = data
    for part in parents:
        inside = inside.setdefault(part, {})
    if value is None:
        del inside[last]
    else:
        inside[last] = value
    return data


@pytest.mark.parametrize("document", list(example_documents()))
def test_an_example_is_accepted_and_defaulted_as_the_models_do(
    api: Api, namespace: str, document: dict[str, Any]
) -> None:
    resource, mistakes = model_of(document)
    assert resource is not None, mistakes
    path = collection(namespace, document["kind"])
    api.create(path, document)
    stored = api.get(f"{path}/{document['metadata']['name']}")
    assert stored["spec"] == spec_of(resource)
    assert model_of(stored)[1] == [], "what the API server stored has to be readable as it is"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_the_least_resource_gets_the_models_defaults(api: Api, namespace: str, kind: str) -> None:
    resource, mistakes = model_of(minimal(kind))
    assert resource is not None, mistakes
    created = api.create(collection(namespace, kind), minimal(kind))
    assert created["spec"] == spec_of(resource)
    assert created["spec"] != minimal(kind)["spec"], "nothing was defaulted: the comparison says nothing"


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutated(KINDS))
def test_server_and_models_agree_on_mutated_examples(api: Api, namespace: str, case: tuple[str, Any]) -> None:
    kind, data = case
    resource, mistakes = model_of(data)
    stored, refusal = tried(api, collection(namespace, kind), data)
    assert bool(refusal) == bool(mistakes), (refusal, mistakes)
    if resource is not None:
        assert stored["spec"] == spec_of(resource)


def tried(api: Api, path: str, data: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """What a dry run would store, or how it is refused."""
    try:
        return api.create(path, data, dryRun="All"), ""
    except Refused as refused:
        if refused.code not in (400, 422):
            raise
        return {}, str(refused)


@pytest.mark.parametrize(
    ("kind", "path", "value", "field"),
    [
        ("ExpertPool", "spec.price.inputUSDPerMillionTokens", "1e-3", "spec.price.inputUSDPerMillionTokens"),
        ("ExpertPool", "spec.price.inputUSDPerMillionTokens", 1, "spec.price.inputUSDPerMillionTokens"),
        ("ExpertPool", "spec.price", None, "spec.price"),
        ("ExpertPool", "spec.roles", ["Sing"], "spec.roles[0]"),
        ("ExpertPool", "spec.type", "VLLM", "spec.vllm"),
        ("ExpertPool", "spec.unheardOf", 1, "spec.unheardOf"),
        ("ExpertPool", "metadata.name", "a" * 41, "metadata.name"),
        ("ExpertPool", "metadata.name", "cost", "metadata.name"),
        ("ExpertPool", "metadata.name", "1st", "metadata.name"),
        ("OrchestratorTraining", "spec.algorithm.steps", 0, "spec.algorithm.steps"),
        ("OrchestratorTraining", "spec.algorithm.learningRate", "fast", "spec.algorithm.learningRate"),
        ("OrchestratorTraining", "spec.algorithm.groupSizes", 8, "spec.algorithm.groupSizes"),
        ("OrchestratorTraining", "spec.algorithm", {"maxStaleness": 0, "onStale": "Drop"}, "spec.algorithm.onStale"),
        ("OrchestratorTraining", "spec.activeDeadlineSeconds", 60, "spec.activeDeadlineSeconds"),
        ("OrchestratorTraining", "spec.limits.maxSpendUSD", "-1", "spec.limits.maxSpendUSD"),
        ("OrchestratorTraining", "spec.tasks.sources", [], "spec.tasks.sources"),
        ("OrchestratorTraining", "spec.model", None, "spec.model"),
    ],
)
def test_a_refusal_names_the_field(api: Api, namespace: str, kind: str, path: str, value: Any, field: str) -> None:
    with pytest.raises(Refused) as caught:
        api.create(collection(namespace, kind), changed(minimal(kind), path, value))
    assert caught.value.code in (400, 422)
    assert field in caught.value.message


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        (
            "spec.reward.weights",
            {"outcome": "0", "cost": "0", "latency": "0"},
            "all weights are 0, so every episode is worth the same: give at least one a weight above 0",
        ),
        (
            "spec.tasks.heldOutFraction",
            "1",
            "heldOutFraction 1 holds out every task, so none is left to train on: lower it",
        ),
    ],
)
def test_a_training_that_could_learn_nothing_is_refused_with_the_way_out(
    api: Api, namespace: str, field: str, value: Any, says: str
) -> None:
    """A person reads the same words from `kubectl apply` as from `orchestra`."""
    data = changed(minimal("OrchestratorTraining"), field, value)
    with pytest.raises(Refused) as caught:
        api.create(collection(namespace, "OrchestratorTraining"), data)
    assert caught.value.code == 422
    assert f" {field}: Invalid value: " in caught.value.message
    assert caught.value.message.endswith(says)
    _, mistakes = model_of(data)
    assert [says in mistake for mistake in mistakes] == [True]


def test_a_flag_that_has_a_field_is_refused_in_every_spelling(api: Api, namespace: str) -> None:
    path = collection(namespace, "ExpertPool")

    def refused(*arguments: str) -> bool:
        data = vllm_pool(extraArgs=list(arguments))
        _, refusal = tried(api, path, data)
        assert bool(refusal) == bool(model_of(data)[1]), (arguments, refusal)
        assert not refusal or "in any spelling" in refusal
        return bool(refusal)

    for spelled in (
        "--api-key=x",
        "--api_key=x",
        "--API-KEY",
        "--api-k",
        "--api_key x",
        "-tp=2",
        "-t",
        "--api-key=a\nb",
    ):
        assert refused("--max-num-seqs=8", spelled), spelled
    assert refused("--api-key", "x")
    assert not refused("--max-num-seqs", "8", "--model-impl=auto", "-O3", "--api-server-count=1")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_name_of_forty_characters_is_accepted(api: Api, namespace: str, kind: str) -> None:
    name = "n" + "-" * 38 + "9"
    assert len(name) == 40
    created = api.create(collection(namespace, kind), changed(minimal(kind), "metadata.name", name))
    assert created["metadata"]["name"] == name


@pytest.mark.parametrize(
    ("kind", "path", "value", "refused"),
    [
        ("ExpertPool", "spec.simulated", True, "simulated is immutable"),
        ("ExpertPool", "spec.price.inputUSDPerMillionTokens", "2", ""),
        ("OrchestratorTraining", "spec.algorithm", {"steps": 7}, "algorithm is immutable"),
        ("OrchestratorTraining", "spec.rollout", {"maxTurns": 3}, "maxTurns is immutable"),
        ("OrchestratorTraining", "spec.rollout", {"workers": 9}, ""),
        ("OrchestratorTraining", "spec.queueName", "gpus", "queueName is immutable"),
        ("OrchestratorTraining", "spec.limits.maxSpendUSD", "200", ""),
        ("OrchestratorTraining", "spec.suspend", True, ""),
        ("OrchestratorTraining", "spec.ray", {"image": "example.org/x:1"}, "ray is immutable: suspend"),
    ],
)
def test_an_edit_is_honoured_or_refused_with_the_way_out(
    api: Api, namespace: str, kind: str, path: str, value: Any, refused: str
) -> None:
    one = f"{collection(namespace, kind)}/minimal"
    created = api.create(collection(namespace, kind), minimal(kind))
    edit = changed({}, path, value)
    if refused:
        with pytest.raises(Refused, match=refused):
            api.merge(one, edit)
    else:
        assert api.merge(one, edit)["metadata"]["generation"] == created["metadata"]["generation"] + 1


def test_ray_may_change_while_suspended(api: Api, namespace: str) -> None:
    one = f"{collection(namespace, 'OrchestratorTraining')}/minimal"
    api.create(collection(namespace, "OrchestratorTraining"), minimal("OrchestratorTraining"))
    api.merge(one, {"spec": {"suspend": True}})
    assert api.merge(one, {"spec": {"ray": {"image": "example.org/x:1"}}})["spec"]["ray"]["image"] == "example.org/x:1"


def test_applying_the_same_file_again_changes_nothing(api: Api, namespace: str) -> None:
    for data in EXAMPLES:
        if data["kind"] in KINDS:
            one = f"{collection(namespace, data['kind'])}/{data['metadata']['name']}"
            first = api.apply(one, data)
            assert api.apply(one, data)["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]


def test_a_pool_scales_through_its_sub_resource(api: Api, namespace: str) -> None:
    data = next(one for one in EXAMPLES if "vllm" in one.get("spec", {}))
    api.create(collection(namespace, "ExpertPool"), data)
    one = f"{collection(namespace, 'ExpertPool')}/{data['metadata']['name']}"
    api.merge(f"{one}/scale", {"spec": {"replicas": 5}})
    assert api.get(one)["spec"]["vllm"]["replicas"] == 5
    api.merge(f"{one}/status", {"status": {"replicas": 3, "selector": "a=b"}})
    assert api.get(f"{one}/scale")["status"] == {"replicas": 3, "selector": "a=b"}


def test_the_spec_is_not_written_through_the_status(api: Api, namespace: str) -> None:
    api.create(collection(namespace, "OrchestratorTraining"), minimal("OrchestratorTraining"))
    one = f"{collection(namespace, 'OrchestratorTraining')}/minimal"
    after = api.merge(f"{one}/status", {"spec": {"suspend": True}, "status": {"step": 3}})
    assert after["status"]["step"] == 3
    assert after["spec"]["suspend"] is False
    assert after["metadata"]["generation"] == 1


def test_a_float_in_the_status_is_refused(api: Api, namespace: str) -> None:
    api.create(collection(namespace, "OrchestratorTraining"), minimal("OrchestratorTraining"))
    with pytest.raises(Refused, match=r"status\.metrics\.reward"):
        api.merge(
            f"{collection(namespace, 'OrchestratorTraining')}/minimal/status", {"status": {"metrics": {"reward": 0.5}}}
        )


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_crd_fits_into_client_side_apply(api: Api, kind: str) -> None:
    name = f"{PLURALS[kind]}.{GROUP}"
    assert (REPOSITORY / "crds" / f"{GROUP}_{PLURALS[kind]}.yaml").stat().st_size < MAX_BYTES
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
    crd = api.get(path)
    assert [one["reason"] for one in crd["status"]["conditions"] if one["status"] == "False"] == []
    last = json.dumps({key: crd[key] for key in ("apiVersion", "kind", "spec")})
    annotated = {"metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": last}}}
    assert api.request(
        "PATCH",
        path,
        body=annotated,
        content="application/merge-patch+json",
        dryRun="All",
    )["metadata"]["annotations"]


def test_what_kubectl_explain_prints_is_described(cluster: Cluster) -> None:
    """`kubectl explain ot.spec.reward` reads OpenAPI v3: every field of every kind says there what it is."""
    schemas = cluster.api.get(f"/openapi/v3/apis/{GROUP}/{VERSION}")["components"]["schemas"]
    by_kind = {
        one["x-kubernetes-group-version-kind"][0]["kind"]: one
        for one in schemas.values()
        if one.get("x-kubernetes-group-version-kind")
    }
    for kind in CUSTOM_RESOURCES:
        schema = by_kind[kind.__name__]
        assert list(undescribed(schema["properties"]["spec"], "spec")) == []
        assert list(undescribed(schema["properties"]["status"], "status")) == []
    reward = by_kind["OrchestratorTraining"]["properties"]["spec"]["properties"]["reward"]
    assert "weights" in reward["properties"]


def undescribed(schema: dict[str, Any], path: str) -> Iterator[str]:
    """Paths of the fields that have no description."""
    if not schema.get("description"):
        yield path
    for name, sub in schema.get("properties", {}).items():
        yield from undescribed(sub, f"{path}.{name}")
    items = schema.get("items")
    for name, sub in (items or {}).get("properties", {}).items():
        yield from undescribed(sub, f"{path}[].{name}")


def test_kubectl_get_shows_the_columns(api: Api, namespace: str) -> None:
    path = collection(namespace, "OrchestratorTraining")
    api.create(path, minimal("OrchestratorTraining"))
    status = {
        "step": 12,
        "metrics": {"reward": "0.7", "accuracy": "0.9", "usdPerTask": "0.01"},
        "conditions": [
            {
                "type": "Running",
                "status": "True",
                "reason": "Training",
                "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
                "observedGeneration": 1,
            }
        ],
    }
    api.merge(f"{path}/minimal/status", {"status": status})
    table = api.request("GET", path, accept="application/json;as=Table;v=v1;g=meta.k8s.io")
    cells = dict(zip([one["name"] for one in table["columnDefinitions"]], table["rows"][0]["cells"], strict=True))
    assert cells["Status"] == "Running"
    assert (cells["Step"], cells["Reward"], cells["Accuracy"], cells["$/task"]) == (12, "0.7", "0.9", "0.01")
    assert uuid.UUID(table["rows"][0]["object"]["metadata"]["uid"])
