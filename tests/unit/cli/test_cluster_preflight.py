"""The preflight's parts: GPUs, memory, money, references, and what a cluster lacks."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from support.cluster.pool_world import GPU
from support.preflight_cases import DOCUMENTS, POOLS, gpu_training, levels, pool, training
from toolorchestra.api.pool import ExpertPool
from toolorchestra.cluster_client.preflight.compute import demands, gpu_lines
from toolorchestra.cluster_client.preflight.memory import (
    bytes_of,
    known_shape,
    pool_lines,
    size_of,
    training_lines,
)
from toolorchestra.cluster_client.preflight.references import Reference, references
from toolorchestra.cluster_client.preflight.spend import evaluation_episodes, may_chat, spend_lines, training_episodes
from toolorchestra.controller.settings import worst_case_usd

H100 = 80 * 2**30


# ── GPUs ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_gpus_are_counted_by_pool_and_training() -> None:
    [line, _] = gpu_lines(demands([pool(resources=GPU, replicas=3), POOLS[0]], [gpu_training()]))
    assert line.text.startswith("13 nvidia.com/gpu: pool qwen 3 x 1, tiny trainers 2 x 1, tiny engines 4 x 2")


CLAIMING = {"spec": {"resourceClaims": [{"name": "g"}]}}


@pytest.mark.parametrize(
    ("vllm", "level", "said"),
    [
        ({"resources": {"limits": {"nvidia.com/mig-1g.10gb": 1}}}, "ok", "1 nvidia.com/mig-1g.10gb: pool qwen 1 x 1"),
        (
            {"resources": {"accelerator": "Claim"}, "podTemplate": CLAIMING},
            "note",
            "claims in podTemplate",
        ),
        ({"resources": {"limits": {"example.com/npu": 1}}}, "missing", "pool qwen: example.com/npu: not known whether"),
        ({"podTemplate": CLAIMING}, "missing", "pool qwen: podTemplate claims"),
        ({"podTemplate": {"spec": "abc"}}, "note", "none is requested"),
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
    assert (first.level, first.remedy) == ("note", "set spec.model.uri to the model before quantization")


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
