"""What a cluster has and lacks, before a training is applied."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest

from support.preflight_cases import DOCUMENTS, POOLS, gpu_training, levels, lines, pool, training
from toolorchestra.cluster_client.preflight.capacity import MEMORY_LABEL, gpu_bytes
from toolorchestra.cluster_client.preflight.cluster import LABEL_VARIABLE, NATS_VARIABLE, operator_variables
from toolorchestra.cluster_client.preflight.facts import PULL_VARIABLE, WATCHED_VARIABLE, Facts, Hidden
from toolorchestra.cluster_client.preflight.line import Line
from toolorchestra.cluster_client.preflight.look import look
from toolorchestra.cluster_client.preflight.references import Reference
from toolorchestra.kube.kinds import Kind

# ── a cluster ──────────────────────────────────────────────────────────────────────────────────────────────────────

SERVED = frozenset({"orchestratortrainings.toolorchestra.dev", "expertpools.toolorchestra.dev"})


def operator(*, available: int = 1, **environment: str) -> dict[str, Any]:
    env = [{"name": name, "value": value} for name, value in environment.items()]
    return {
        "metadata": {"namespace": "system", "name": "operator"},
        "spec": {"template": {"spec": {"containers": [{"env": env}]}}},
        "status": {"availableReplicas": available},
    }


def node(gpus: int, *, unschedulable: bool = False, **labels: str) -> dict[str, Any]:
    allocatable = {"nvidia.com/gpu": str(gpus)} if gpus else {}
    return {
        "metadata": {"labels": labels},
        "spec": {"unschedulable": unschedulable},
        "status": {"allocatable": allocatable},
    }


def gpu_pod(gpus: int, on: str = "n") -> dict[str, Any]:
    return {"spec": {"nodeName": on, "containers": [{"resources": {"limits": {"nvidia.com/gpu": gpus}}}]}}


GOOD = Facts(served=SERVED, operators=(operator(**{NATS_VARIABLE: "nats://n:4222"}),))


def missing(found: Iterable[Line]) -> list[Line]:
    return [line for line in found if line.level == "missing"]


def test_a_cluster_that_has_everything() -> None:
    assert missing(lines(GOOD)) == []


@pytest.mark.parametrize(
    ("facts", "about", "words"),
    [
        (replace(GOOD, served=frozenset()), "CRDs", "kubectl apply"),
        (replace(GOOD, namespace=False), "namespace", "kubectl create namespace team"),
        (replace(GOOD, may={("create", "expertpools.toolorchestra.dev"): False}), "rights", "kubectl create role"),
        (replace(GOOD, operators=()), "operator", "helm install"),
        (replace(GOOD, operators=(operator(available=0, **{NATS_VARIABLE: "n"}),)), "operator", "kubectl logs"),
        (replace(GOOD, operators=(operator(**{WATCHED_VARIABLE: "a, b"}),)), "operator", "watchNamespaces"),
        (replace(GOOD, operators=(operator(),)), "NATS", "nats.enabled"),
        (replace(GOOD, default_class=False), "volumes", "storageClassName"),
        (replace(GOOD, refused={"ExpertPool/x": "no"}), "refused", ""),
        (
            replace(GOOD, objects={Reference("PersistentVolumeClaim", "models"): None}),
            "PersistentVolumeClaim models",
            "create the claim",
        ),
    ],
)
def test_what_is_missing_says_what_to_do(facts: Facts, about: str, words: str) -> None:
    [line] = missing(lines(facts))
    assert line.about == about
    assert words in line.remedy


def test_what_may_not_be_seen_is_unknown_and_no_refusal() -> None:
    hidden = Hidden("not allowed to list nodes")
    facts = replace(GOOD, namespace=hidden, operators=hidden, nodes=hidden, pods=hidden, default_class=hidden)
    found = lines(facts, gpu_training())
    assert missing(found) == []
    assert levels(found).count("unknown") == 4


def test_a_key_that_a_secret_lacks() -> None:
    one = pool(model={"uri": "hf://a/b", "tokenSecretRef": {"name": "hub", "key": "token"}})
    facts = replace(GOOD, objects={Reference("Secret", "hub", "token"): {"data": {"other": ""}}})
    [line] = missing(lines(facts, pools=(one,)))
    assert "has no key token" in line.text


def test_a_secret_of_a_pool_says_that_it_is_for_pools() -> None:
    one = pool(model={"uri": "hf://a/b", "tokenSecretRef": {"name": "hub", "key": "token"}})
    hub, there = Reference("Secret", "hub", "token"), {"data": {"token": ""}}
    agree = "kubectl label secret hub -n team toolorchestra.dev/secret-for=pools"
    [line] = missing(lines(replace(GOOD, objects={hub: there}), pools=(one,)))
    assert line.remedy == agree
    assert "spec.vllm.model.tokenSecretRef" in line.text
    [line] = missing(lines(replace(GOOD, objects={hub: None}), pools=(one,)))
    assert line.remedy.startswith("kubectl create secret")
    assert line.remedy.endswith(f" && {agree}")
    agreed = {**there, "metadata": {"labels": {"toolorchestra.dev/secret-for": "pools"}}}
    assert missing(lines(replace(GOOD, objects={hub: agreed}), pools=(one,))) == []
    lax = replace(GOOD, operators=(operator(**{NATS_VARIABLE: "n", LABEL_VARIABLE: "false"}),))
    assert missing(lines(replace(lax, objects={hub: there}), pools=(one,))) == []


def test_a_short_host_is_somebody_elses_in_another_namespace() -> None:
    assert {one.spec.endpoint.url for one in POOLS if one.spec.endpoint} == {"http://simulator/v1"}
    found = [line for line in lines(GOOD, pools=POOLS) if line.about == "hosts"]
    assert len(found) == len(POOLS)
    assert "simulator.system.svc" in found[0].remedy
    at_home = replace(GOOD, operators=({**operator(), "metadata": {"namespace": "team", "name": "operator"}},))
    assert levels(lines(at_home, pools=POOLS), "hosts") == []


def test_the_charts_pull_secrets_are_wanted_in_the_namespace_of_the_pods() -> None:
    pulling = replace(GOOD, operators=(operator(**{NATS_VARIABLE: "n", PULL_VARIABLE: "a,b"}),))
    a, b = Reference("Secret", "a"), Reference("Secret", "b")
    [line] = [one for one in lines(replace(pulling, objects={a: None, b: {}})) if one.about == "pulling"]
    assert (line.level, line.text.partition(" ")[0]) == ("note", "a")
    assert "create secret docker-registry a -n team" in line.remedy
    hidden = replace(pulling, objects={a: Hidden("no"), b: Hidden("no")})
    assert levels(lines(hidden), "pulling") == []


def test_the_variables_are_those_of_the_operator_that_looks_after_the_namespace() -> None:
    operators = operator(**{WATCHED_VARIABLE: "other", "X": "1"}), operator(**{WATCHED_VARIABLE: "team", "X": "2"})
    assert operator_variables(replace(GOOD, operators=operators), "team")["X"] == "2"
    assert operator_variables(replace(GOOD, operators=operators), "nobody's") == {}
    assert operator_variables(replace(GOOD, operators=Hidden("no")), "team") == {}


def test_kuberay_and_kueue_where_they_are_wanted() -> None:
    ray = {**DOCUMENTS[0]["spec"].get("ray", {}), "provider": "KubeRay"}
    assert [line.about for line in missing(lines(GOOD, training(ray=ray, queueName="q")))] == ["Kueue", "Ray"]
    both = replace(GOOD, served=SERVED | {"rayjobs.ray.io", "localqueues.kueue.x-k8s.io"})
    assert missing(lines(both, training(ray=ray, queueName="q"))) == []


def test_gpus_of_nodes() -> None:
    enough = replace(GOOD, nodes=(node(8), node(8, unschedulable=True), node(4)), pods=(gpu_pod(1), gpu_pod(4, on="")))
    assert levels(lines(enough, gpu_training()), "nodes") == ["ok"]
    busy = replace(enough, pods=(gpu_pod(4),))
    assert levels(lines(busy, gpu_training()), "nodes") == ["note"]
    few = replace(enough, nodes=(node(8),))
    assert levels(lines(few, gpu_training()), "nodes") == ["missing"]
    scattered = replace(enough, nodes=tuple(node(1) for _ in range(12)))
    [line] = missing(lines(scattered, gpu_training()))
    assert "tiny engines: no node has 2 nvidia.com/gpu for one pod" in line.text


def test_a_node_selector_counts() -> None:
    ray = gpu_training().spec.ray.model_dump(mode="json", by_alias=True, exclude_none=True)
    ray["podTemplate"] = {"spec": {"nodeSelector": {"kind": "h100"}}}
    elsewhere = replace(GOOD, nodes=(node(16),))
    assert len(missing(lines(elsewhere, training(ray=ray)))) == 2
    assert missing(lines(replace(GOOD, nodes=(node(16, kind="h100"),)), training(ray=ray))) == []


def test_nodes_tell_how_large_a_gpu_is() -> None:
    assert gpu_bytes(replace(GOOD, nodes=(node(1), node(1, **{MEMORY_LABEL: "81559"})))) == 81559 * 2**20
    assert gpu_bytes(GOOD) is None


class Serving:
    """An API server that has Kueue in some versions, and every object that is asked for."""

    def __init__(self, *versions: str) -> None:
        self.versions = {f"kueue.x-k8s.io/{version}" for version in versions}
        self.asked: list[str] = []

    def serves(self, kind: Kind) -> bool:
        return kind.api_version in self.versions

    def find(self, kind: Kind, name: str, **_: Any) -> Any:
        self.asked.append(kind.path(name=name))
        return {"metadata": {"name": name}}

    def list(self, *_: Any, **__: Any) -> list[Any]:
        return []

    def may(self, *_: Any, **__: Any) -> bool:
        return True


@pytest.mark.parametrize(("versions", "asked"), [("v1beta1", "v1beta1"), ("v1beta2", "v1beta2"), ("both", "v1beta2")])
def test_a_queue_is_looked_for_in_a_version_that_kueue_serves(versions: str, asked: str) -> None:
    kube: Any = Serving(*(("v1beta1", "v1beta2") if versions == "both" else (versions,)))
    queue = Reference("LocalQueue", "research")
    facts = look(kube, namespace="ours", references=[queue], documents=[], gpus=False)
    assert facts.objects == {queue: {"metadata": {"name": "research"}}}
    assert f"/apis/kueue.x-k8s.io/{asked}/localqueues/research" in kube.asked
