"""The preflight's parts: GPUs, memory, money, references, and what a cluster lacks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from support.pool_world import GPU, vllm_pool
from support.real_run import TINY_RUN
from toolorchestra.api.pool import ExpertPool
from toolorchestra.api.training import OrchestratorTraining
from toolorchestra.remote.kinds import Kind
from toolorchestra.remote.preflight.capacity import MEMORY_LABEL, gpu_bytes
from toolorchestra.remote.preflight.cluster import (
    LABEL_VARIABLE,
    NATS_VARIABLE,
    cluster_lines,
    operator_variables,
)
from toolorchestra.remote.preflight.compute import demands, gpu_lines
from toolorchestra.remote.preflight.facts import PULL_VARIABLE, WATCHED_VARIABLE, Facts, Hidden
from toolorchestra.remote.preflight.line import Line
from toolorchestra.remote.preflight.look import look
from toolorchestra.remote.preflight.memory import (
    bytes_of,
    known_shape,
    pool_lines,
    size_of,
    training_lines,
)
from toolorchestra.remote.preflight.references import Reference, references
from toolorchestra.remote.preflight.spend import evaluation_episodes, may_chat, spend_lines, training_episodes
from toolorchestra.train.settings import worst_case_usd

DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all((TINY_RUN / "training.yaml").read_text()))
POOLS = tuple(ExpertPool.model_validate(one) for one in DOCUMENTS[1:])
H100 = 80 * 2**30


def training(**spec: Any) -> OrchestratorTraining:
    return OrchestratorTraining.model_validate({**DOCUMENTS[0], "spec": {**DOCUMENTS[0]["spec"], **spec}})


def gpu_training(uri: str = "hf://Qwen/Qwen3-8B", *, trainers: int = 2, **spec: Any) -> OrchestratorTraining:
    ray = {
        "trainers": {"replicas": trainers, "resources": GPU},
        "engines": {"replicas": 4, "tensorParallelSize": 2, "resources": {"limits": {"nvidia.com/gpu": 2}}},
    }
    model = {**DOCUMENTS[0]["spec"]["model"], "uri": uri}
    return training(model=model, ray=ray, **spec)


def pool(**vllm: Any) -> ExpertPool:
    return ExpertPool.model_validate(vllm_pool(**vllm))


def levels(lines: Iterable[Line], about: str = "") -> list[str]:
    return [line.level for line in lines if not about or line.about == about]


# ── GPUs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_gpus_are_counted_by_pool_and_training() -> None:
    [line, _] = gpu_lines(demands([pool(resources=GPU, replicas=3), POOLS[0]], [gpu_training()]))
    assert line.text.startswith("13 nvidia.com/gpu: pool qwen 3 x 1, tiny trainers 2 x 1, tiny engines 4 x 2")


CLAIMING = {"spec": {"resourceClaims": [{"name": "g"}]}}


@pytest.mark.parametrize(
    ("vllm", "level", "said"),
    [
        ({"resources": {"limits": {"nvidia.com/mig-1g.10gb": 1}}}, "ok", "1 nvidia.com/mig-1g.10gb: pool qwen 1 x 1"),
        ({"resources": {"accelerator": "Claim"}, "podTemplate": CLAIMING}, "note", "claimed by podTemplate, which is"),
        ({"resources": {"limits": {"example.com/npu": 1}}}, "missing", "pool qwen: example.com/npu: not known whether"),
        ({"podTemplate": CLAIMING}, "missing", "pool qwen: podTemplate claims"),
        ({"podTemplate": {"spec": "abc"}}, "note", "none is asked for"),
    ],
)
def test_what_computes_is_known_stated_or_missing(vllm: Any, level: str, said: str) -> None:
    [line] = [one for one in gpu_lines(demands([pool(**vllm)], [])) if one.about == "GPUs"]
    assert line.level == level
    assert line.text.startswith(said)


def test_without_gpus_it_says_so() -> None:
    lines = list(gpu_lines(demands(POOLS, [training()])))
    assert levels(lines, "GPUs") == ["note"]


# ── memory ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("uri", "parameters"),
    [
        ("hf://Qwen/Qwen3-8B", 8e9),
        ("hf://Qwen/Qwen3-0.6B", 0.6e9),
        ("hf://Qwen/Qwen3-30B-A3B-Instruct", 30e9),
        ("hf://HuggingFaceTB/SmolLM2-135M-Instruct", 135e6),
        ("hf://mistralai/Mixtral-8x7B-v0.1", 56e9),
        ("pvc://models/llama-70b", 70e9),
    ],
)
def test_a_name_tells_the_size(uri: str, parameters: float) -> None:
    size = size_of(uri)
    assert size is not None
    assert size.parameters == pytest.approx(parameters)


@pytest.mark.parametrize("uri", ["hf://openai/gpt2", "pvc://models/tiny", "s3://b/v2beta", "hf://org/4bit-model"])
def test_what_nothing_tells_is_not_guessed(uri: str) -> None:
    assert size_of(uri) is None
    assert [line for line in levels(training_lines(gpu_training(uri), gpu_bytes=H100)) if line != "note"] == ["unknown"]


def test_a_folder_tells_the_size_by_its_weights(tmp_path: Path) -> None:
    header = json.dumps({"__metadata__": {}, "a": {"shape": [10, 20]}, "b": {"shape": [7]}}).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    size = size_of(f"file://{tmp_path}")
    assert size is not None
    assert (size.parameters, size.known) == (207, "by its weights")


def test_what_does_not_fit_is_missing() -> None:
    llama = "hf://meta/Llama-8B"  # no shape is known of it, only a size
    assert levels(training_lines(gpu_training(llama, trainers=1), gpu_bytes=H100)) == ["ok", "missing", "ok"]
    assert levels(training_lines(gpu_training(llama, trainers=4), gpu_bytes=H100)) == ["ok", "ok", "ok"]
    assert levels(training_lines(gpu_training(llama), gpu_bytes=None)) == ["unknown", "unknown", "ok"]
    large = pool(model={"uri": "hf://meta/Llama-70B"}, resources=GPU)
    assert levels(pool_lines(large, gpu_bytes=H100)) == ["missing"]
    quantised = pool(model={"uri": "hf://meta/Llama-70B-AWQ"}, resources=GPU)
    assert levels(pool_lines(quantised, gpu_bytes=H100)) == ["ok"]


def test_a_model_whose_shape_is_known_is_planned_byte_by_byte() -> None:
    lines = list(training_lines(gpu_training(trainers=4), gpu_bytes=H100))
    assert set(levels(lines)) == {"ok"}
    text = "\n".join(line.text for line in lines)
    for part in ("tiny trainer (4 GPUs, each): ", "gradients", "optimizer", "activations of", "head, ", "slack"):
        assert part in text
    assert "tiny engine (8 GPUs, each): " in text
    assert "keys and values" in text
    assert "shape as published of Qwen3-8B" in text


def test_what_the_plan_refuses_is_missing_with_what_would_fit() -> None:
    [first, *_] = training_lines(gpu_training(trainers=1), gpu_bytes=H100)
    assert first.level == "missing"
    assert "of 80.0 GiB" in first.text
    assert "GPUs: spec.ray.trainers.replicas 2, engines.replicas 4" in first.remedy


def test_trainer_and_engine_that_share_a_gpu_are_planned_together() -> None:
    model = {**DOCUMENTS[0]["spec"]["model"], "uri": "hf://Qwen/Qwen3-1.7B"}
    shared = {"trainers": {"resources": GPU}, "placement": "Shared"}
    one = training(model=model, ray=shared)
    [first, *_] = training_lines(one, gpu_bytes=H100)
    assert first.level == "ok"
    assert first.text.startswith("tiny trainer and engine (1 GPU): ")


def test_an_engine_that_vllm_cannot_split_is_missing() -> None:
    three = {"replicas": 1, "tensorParallelSize": 3, "resources": {"limits": {"nvidia.com/gpu": 3}}}
    ray = {"trainers": {"replicas": 8, "resources": GPU}, "engines": three}
    model = {**DOCUMENTS[0]["spec"]["model"], "uri": "hf://Qwen/Qwen3-8B"}
    [first, *others] = training_lines(training(model=model, ray=ray), gpu_bytes=H100)
    assert first.level == "missing"
    assert "spec.ray.engines.tensorParallelSize is 3" in first.text
    assert set(levels(others)) == {"ok"}


def test_a_quantized_model_is_said_not_to_be_trained() -> None:
    [first, *_] = training_lines(gpu_training("hf://Qwen/Qwen3-8B-FP8"), gpu_bytes=H100)
    assert (first.level, first.remedy) == ("note", "set spec.model.uri to the model that it was made from")


@pytest.mark.parametrize("uri", ["hf://Qwen/Qwen3-30B-A3B", "hf://Qwen/Qwen3-8B-AWQ", "hf://Qwen/Qwen2.5-7B"])
def test_no_shape_is_taken_for_another(uri: str) -> None:
    assert known_shape(uri) is None


def test_a_published_shape_is_found_by_its_name() -> None:
    base = known_shape("hf://Qwen/Qwen3-1.7B-Base")
    assert base is not None
    assert base.layers == 28
    assert known_shape("file:///nowhere") is None
    demo = known_shape(f"file://{Path(__file__).parents[3] / 'examples' / 'demo' / 'base'}")
    assert demo is not None
    assert demo.parameters == 1_037_696


def test_a_container_has_a_limit_too() -> None:
    small = {"limits": {"memory": "100Mi"}}
    assert levels(pool_lines(pool(resources=small), gpu_bytes=None)) == ["missing"]
    assert levels(pool_lines(pool(resources={"limits": {"memory": "8Gi"}}), gpu_bytes=None)) == ["ok"]


@pytest.mark.parametrize(
    ("text", "size"), [("1Gi", 2**30), ("1500M", 1_500_000_000), ("1.5Ki", 1536), ("12", 12), ("1e9", 10**9)]
)
def test_quantities(text: str, size: int) -> None:
    assert bytes_of(text) == size
    assert bytes_of("80 GB") is None
    assert bytes_of("1e999999999") is None, "it would not end"


# ── money ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def prices(one: ExpertPool) -> tuple[Decimal, Decimal]:
    return one.spec.price.input_usd_per_million_tokens, one.spec.price.output_usd_per_million_tokens


def test_the_worst_is_every_episode_at_its_worst() -> None:
    one = training(limits={"maxSpendUSD": "100"})
    assert training_episodes(one) == 10 * 2 * 2
    assert evaluation_episodes(one, 2) == 8 * (2 + 2)
    [line] = spend_lines(one, POOLS)
    # Both experts once (`cascade`), the dearest twice; inputs of at most 4 x 24,000 bytes.
    small, large = (Decimal(96_256) * price[0] + Decimal(8_192) * price[1] for price in map(prices, POOLS))
    each = worst_case_usd(one.spec, POOLS, chat=False)
    assert each == (small + large + max(small, large)) / 1_000_000
    worst = each * (40 + 32)
    assert f"x 72 episodes = ${worst:,.2f}" in line.text
    assert line.level == "ok"


def test_a_file_may_hold_chats_and_then_a_turn_has_six_calls() -> None:
    jsonl = {"sources": [{"name": "f", "type": "JSONL", "jsonl": {"uri": "file:///x"}}]}
    assert not may_chat(training().spec)
    assert may_chat(training(tasks=jsonl).spec)
    one, six = (worst_case_usd(training().spec, POOLS[:1], chat=chat) for chat in (False, True))
    assert six == one / 2 * 7


def test_no_cap_is_said_and_a_cap_without_room_is_missing() -> None:
    assert levels(spend_lines(training(), POOLS)) == ["note"]
    assert levels(spend_lines(training(limits={"maxSpendUSD": "0.05"}), POOLS)) == ["missing"]
    budget = {**DOCUMENTS[0]["spec"]["rollout"], "episodeBudget": {"maxUSD": "0.04"}}
    assert levels(spend_lines(training(limits={"maxSpendUSD": "0.05"}, rollout=budget), POOLS)) == ["missing"]
    capped = training(limits={"maxSpendUSD": "0.08"}, rollout=budget)
    assert levels(spend_lines(capped, POOLS)) == ["ok", "note"], "one group at a time"


# ── references ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_references_are_found_wherever_they_are() -> None:
    cache = {"type": "ExistingClaim", "existingClaim": {"claimName": "weights"}}
    overlay = {"spec": {"imagePullSecrets": [{"name": "registry"}]}}
    model = {"uri": "pvc://models/q", "tokenSecretRef": {"name": "hub", "key": "token"}}
    one = pool(model=model, cache=cache, queueName="experts", podTemplate=overlay)
    found = references([one, training(priorityClassName="batch")])
    assert set(found) == {
        Reference("Secret", "hub", "token"),
        Reference("Secret", "registry"),
        Reference("PersistentVolumeClaim", "weights"),
        Reference("PersistentVolumeClaim", "models"),
        Reference("LocalQueue", "experts"),
        Reference("PriorityClass", "batch"),
    }
    assert found[Reference("PersistentVolumeClaim", "models")] == (
        "ExpertPool/qwen: spec.vllm.model.uri",
        "OrchestratorTraining/tiny: spec.model.uri",
    )


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


def lines(facts: Facts, *trainings: OrchestratorTraining, pools: tuple[ExpertPool, ...] = ()) -> list[Line]:
    chosen = trainings or (training(),)
    found = references([*pools, *chosen])
    there = {**{one: {"data": {"token": ""}} for one in found}, **facts.objects}
    about = {"pools": pools, "trainings": chosen, "references": found, "demands": demands(pools, chosen)}
    return list(cluster_lines(replace(facts, objects=there), namespace="team", **about))  # type: ignore[arg-type]


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
            "make the claim",
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
