"""The models: names, scalars, defaults and rules as code sees them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from toolorchestra.api import KINDS, ExpertPool, OrchestratorTraining, SkillTable
from toolorchestra.api.algorithm import Algorithm
from toolorchestra.api.base import LabelSelector, yaml_name
from toolorchestra.api.conditions import TRAINING_CONDITION_ORDER, PoolConditionType, Reason, TrainingConditionType
from toolorchestra.api.reference.explanations import EXPLAINED
from toolorchestra.api.scalars import USD, Fraction, Name, Number, Opaque, Quantity, plain
from toolorchestra.api.schema import structural_schema
from toolorchestra.api.skill_table import SimulatedExpert


def pool(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "toolorchestra.dev/v1alpha1",
        "kind": "ExpertPool",
        "metadata": {"name": "a"},
        "spec": {
            "price": {"inputUSDPerMillionTokens": "1", "outputUSDPerMillionTokens": "2"},
            "expectedLatencyMilliseconds": 5,
            "type": "Endpoint",
            "endpoint": {"url": "http://simulator/v1", "model": "a"},
            **spec,
        },
    }


@pytest.mark.parametrize(
    ("attribute", "key"),
    [
        ("max_spend_usd", "maxSpendUSD"),
        ("input_usd_per_million_tokens", "inputUSDPerMillionTokens"),
        ("per_call_usd", "perCallUSD"),
        ("usd_per_task", "usdPerTask"),
        ("export_uri", "exportURI"),
        ("uri", "uri"),
        ("top_p", "topP"),
        ("latency_milliseconds_p50", "latencyMillisecondsP50"),
        ("token_secret_ref", "tokenSecretRef"),
        ("reasoning_gym", "reasoningGym"),
        ("otlp_endpoint", "otlpEndpoint"),
    ],
)
def test_yaml_names(attribute: str, key: str) -> None:
    assert yaml_name(attribute) == key


def test_what_is_opaque_has_a_bottom() -> None:
    def overlay(depth: int) -> dict[str, Any]:
        inner: Any = []
        for _ in range(depth - 2):
            inner = {"a": inner}
        return {"spec": inner, "metadata": {}}

    adapter = TypeAdapter(Opaque)
    assert adapter.validate_python(overlay(100)) == overlay(100)
    with pytest.raises(ValidationError, match="nested deeper than 100 levels"):
        adapter.validate_python(overlay(101))


def test_attributes_are_typed_and_snake_case() -> None:
    read = ExpertPool.model_validate(pool())
    assert read.spec.price.input_usd_per_million_tokens == Decimal(1)
    assert read.spec.price.per_call_usd == Decimal(0)
    assert read.spec.endpoint is not None
    assert read.spec.endpoint.parameter_names.max_tokens == "max_tokens"
    assert read.spec.limits.max_output_tokens == 8192


def test_frozen() -> None:
    read = ExpertPool.model_validate(pool())
    with pytest.raises(ValidationError, match="frozen"):
        read.spec.simulated = True  # type: ignore[misc]


def test_code_may_construct_by_attribute_name_and_yaml_may_not() -> None:
    assert Algorithm(group_size=4).group_size == 4
    with pytest.raises(ValidationError):
        Algorithm.model_validate({"group_size": 4}, by_alias=True, by_name=False)


@pytest.mark.parametrize("kind", KINDS.values())
def test_no_field_is_a_float(kind: type[BaseModel]) -> None:
    for model in models_in(kind):
        for name, field in model.model_fields.items():
            assert "float" not in repr(field.annotation), f"{model.__name__}.{name}"


def models_in(model: type[BaseModel]) -> set[type[BaseModel]]:
    found = {model}
    for field in model.model_fields.values():
        for inner in inner_models(field.annotation):
            found |= models_in(inner)
    return found


def inner_models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [one for argument in getattr(annotation, "__args__", ()) for one in inner_models(argument)]


@pytest.mark.parametrize("kind", KINDS.values())
def test_every_field_of_a_spec_is_described(kind: type[BaseModel]) -> None:
    def walk(schema: dict[str, Any], path: str) -> None:
        for name, sub in schema.get("properties", {}).items():
            assert sub.get("description"), f"{path}.{name} says nothing"
            walk(sub, f"{path}.{name}")
            walk(sub.get("items", {}), f"{path}.{name}[]")

    walk(structural_schema(kind)["properties"]["spec"], "spec")


@given(st.decimals(min_value=0, max_value=999_999_999, places=12, allow_nan=False, allow_infinity=False))
def test_money_round_trips_without_exponent(amount: Decimal) -> None:
    adapter = TypeAdapter(USD)
    text = plain(amount)
    assert adapter.validate_python(text) == amount
    written = adapter.dump_python(adapter.validate_python(text), mode="json")
    assert written == text
    assert "e" not in written.lower()


@pytest.mark.parametrize(
    "value", ["1e3", "1E-6", "+1", "-1", ".5", "1.", "", " 1", "1\n", "NaN", "Infinity", "1_000", "٣"]
)
def test_what_is_no_amount(value: str) -> None:
    with pytest.raises(ValidationError, match="US dollars"):
        TypeAdapter(USD).validate_python(value)


@pytest.mark.parametrize("value", [1, 0.5, True, None, ["1"]])
def test_an_amount_is_written_as_a_string(value: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Number).validate_python(value)


@pytest.mark.parametrize(("value", "fits"), [("0", True), ("1", True), ("0.5", True), ("1.0", True), ("1.01", False)])
def test_fractions(value: str, fits: bool) -> None:
    adapter = TypeAdapter(Fraction)
    if fits:
        assert adapter.validate_python(value) == Decimal(value)
    else:
        with pytest.raises(ValidationError):
            adapter.validate_python(value)


@pytest.mark.parametrize("value", ["2", 2, "500m", "8Gi", "1.5", 0])
def test_quantities(value: object) -> None:
    assert TypeAdapter(Quantity).validate_python(value) == value


@pytest.mark.parametrize("value", ["8GiB", "-1", -1, 1.5, True, "", "lots", None])
def test_no_quantities(value: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Quantity).validate_python(value)


@pytest.mark.parametrize("value", ["a", "a-b", "a" * 40, "x1"])
def test_names(value: str) -> None:
    assert TypeAdapter(Name).validate_python(value) == value


@pytest.mark.parametrize("value", ["", "1a", "-a", "a-", "A", "a.b", "a_b", "a" * 41, "a\n", 5])
def test_no_names(value: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(Name).validate_python(value)


def test_a_resource_that_breaks_a_rule_cannot_be_made_in_code_either() -> None:
    with pytest.raises(ValidationError, match="only for type Endpoint"):
        ExpertPool.model_validate(pool(type="VLLM", vllm={"model": {"uri": "hf://a/b"}}))
    with pytest.raises(ValidationError, match="simulated needs type Endpoint"):
        ExpertPool.model_validate(
            pool(type="VLLM", vllm={"model": {"uri": "hf://a/b"}}, simulated=True) | {"metadata": {"name": "b"}}
        )


@pytest.mark.parametrize(
    ("flag", "owned"),
    [
        *(
            (flag, True)
            for flag in ("--port", "--port=80", "--port 80", "-tp", "-tp=2", "-t", "--", "--tensor_parallel")
        ),
        *((flag, True) for flag in ("--api-key", "--api_key=x", "--API-KEY", "--Api_Key x", "--api-k", "--ap=x")),
        *((flag, True) for flag in ("--max_model-len=1", "--api-key.x", "--model\n", "--api_key=a\nb", "--served=x")),
        *((flag, False) for flag in ("--portal", "--enable-prefix-caching", "--max-num-seqs=8", "--model-impl=auto")),
        *((flag, False) for flag in ("-O3", "-cc.level=3", "-pp", "--hosted", "--api-server-count=2", "qwen", "-1")),
    ],
)
def test_flags_that_have_a_field(flag: str, owned: bool) -> None:
    data = pool(type="VLLM", vllm={"model": {"uri": "hf://a/b"}, "extraArgs": [flag]})
    del data["spec"]["endpoint"]
    if owned:
        with pytest.raises(ValidationError, match="extraArgs must not set"):
            ExpertPool.model_validate(data)
    else:
        assert ExpertPool.model_validate(data).spec.vllm is not None


def test_a_status_reads_and_writes_back() -> None:
    data = pool() | {
        "status": {
            "observedGeneration": 3,
            "replicas": 2,
            "readyReplicas": 2,
            "ready": "2/2",
            "selector": "a=b",
            "url": "http://a:8000/v1",
            "servedModel": "a",
            "measured": {"latencyMillisecondsP50": 900, "errorRate": "0.01", "at": "2026-01-01T00:00:00Z"},
            "conditions": [
                {
                    "type": "Ready",
                    "status": "True",
                    "reason": "Ready",
                    "observedGeneration": 3,
                    "lastTransitionTime": "2026-01-01T00:00:00Z",
                    "message": "",
                }
            ],
        }
    }
    written = ExpertPool.model_validate(data).model_dump(mode="json", exclude_none=True)
    assert written["status"] == data["status"]


def test_reasons_are_closed_and_each_has_a_meaning() -> None:
    assert all(EXPLAINED[reason].meaning.endswith(".") for reason in Reason)
    data = pool() | {"status": {"conditions": [{"type": "Ready", "status": "True", "reason": "Whim"}]}}
    with pytest.raises(ValidationError, match="reason"):
        ExpertPool.model_validate(data)


def test_the_order_of_conditions_covers_the_training_s() -> None:
    assert sorted(TRAINING_CONDITION_ORDER) == sorted(TrainingConditionType.__args__)  # type: ignore[attr-defined]
    assert "Ready" in PoolConditionType.__args__  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("selector", "labels", "matches"),
    [
        ({}, {}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "1", "b": "2"}, True),
        ({"matchLabels": {"a": "1"}}, {"a": "2"}, False),
        ({"matchLabels": {"a": "1"}}, {}, False),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1", "2"]}]}, {"a": "2"}, True),
        ({"matchExpressions": [{"key": "a", "operator": "In", "values": ["1"]}]}, {}, False),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {}, True),
        ({"matchExpressions": [{"key": "a", "operator": "NotIn", "values": ["1"]}]}, {"a": "1"}, False),
        ({"matchExpressions": [{"key": "a", "operator": "Exists"}]}, {"a": ""}, True),
        ({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]}, {"a": ""}, False),
    ],
)
def test_selectors(selector: dict[str, Any], labels: dict[str, str], matches: bool) -> None:
    assert LabelSelector.model_validate(selector).matches(labels) is matches


def test_a_skill_table_answers_by_topic() -> None:
    expert = SimulatedExpert.model_validate(
        {
            "name": "Qwen/Qwen3-32B",
            "default": {"accuracy": "0.3"},
            "topics": [{"topic": "chain_sum", "accuracy": "0.9", "tokensOut": 10}, {"topic": "b", "accuracy": "1"}],
            "latencyMilliseconds": {"p50": 10, "p99": 20},
        }
    )
    assert expert.accuracy_of("chain_sum") == Decimal("0.9")
    assert expert.accuracy_of("else") == Decimal("0.3")
    assert [expert.tokens_out_of(topic) for topic in ("chain_sum", "b", "else")] == [10, 120, 120]
    assert expert.faults.hang == 0


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"latencyMilliseconds": {"p50": 20, "p99": 10}}, "at least p50"),
        ({"latencyMilliseconds": {"p50": 1, "p99": 1}, "faults": {"hang": "0.6", "garbage": "0.6"}}, "more than 1"),
    ],
)
def test_rules_of_a_skill_table(part: dict[str, Any], says: str) -> None:
    data = {
        "apiVersion": "toolorchestra.dev/v1alpha1",
        "kind": "SkillTable",
        "spec": {"experts": [{"name": "a", "default": {"accuracy": "1"}, **part}]},
    }
    with pytest.raises(ValidationError, match=says):
        SkillTable.model_validate(data)


def test_a_training_s_defaults_are_the_published_recipe() -> None:
    training = OrchestratorTraining.model_validate(
        {
            "apiVersion": "toolorchestra.dev/v1alpha1",
            "kind": "OrchestratorTraining",
            "metadata": {"name": "a"},
            "spec": {
                "model": {
                    "uri": "hf://a/b",
                    "price": {"inputUSDPerMillionTokens": "1", "outputUSDPerMillionTokens": "1"},
                },
                "tasks": {"sources": [{"name": "a", "type": "JSONL", "jsonl": {"uri": "pvc://a/b"}}]},
                "tools": {"experts": {"type": "Names", "names": ["a"]}},
            },
        }
    )
    spec = training.spec
    assert (spec.algorithm.group_size, spec.algorithm.groups_per_step) == (8, 16)
    assert spec.algorithm.learning_rate == Decimal("0.000001")
    assert (spec.algorithm.clip.low, spec.algorithm.clip.high) == (Decimal("0.2"), Decimal("0.28"))
    assert (spec.rollout.max_turns, spec.rollout.max_prompt_tokens, spec.rollout.max_response_tokens) == (
        50,
        24000,
        8000,
    )
    assert spec.algorithm.filters.min_reward_std == Decimal("0.1")
