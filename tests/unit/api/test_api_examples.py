"""The examples: valid by the models and by the emitted schema, and full where they say so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from openapi_schema_validator import OAS30Validator

from toolorchestra.api import KINDS, Bundle, load
from toolorchestra.api.crd import FACTS, root_schema
from toolorchestra.api.schema import Schema, structural_schema, violations, with_defaults
from toolorchestra.controller.settings import money_problems, worst_case_usd

EXAMPLES = Path(__file__).parents[3] / "examples"
FILES = sorted(EXAMPLES.glob("*.yaml"))

OTHER_MEMBERS = {
    "ExpertPool-vllm": {"spec.descriptionFrom", "spec.endpoint", "spec.vllm.cache.existingClaim"},
    "ExpertPool-endpoint": {"spec.description", "spec.vllm"},
    "OrchestratorTraining-full": {
        "spec.initFrom.uri",
        "spec.tools.experts.names",
        "spec.tools.functions[].retrieval.url",
        "spec.tools.functions[].retrieval.index.image",
        "spec.tools.functions[].retrieval.index.podTemplate",
        "spec.ray.modelCache.ephemeralClaim",
        "spec.storage.existingClaim",
        "spec.storage.uri",
        "spec.storage.secretRef",
        "spec.storage.ephemeralClaim.storageClassName",
        "spec.tools.experts.selector.matchExpressions[].values",
    },
}
"""What a full example cannot show, since another member of the union is there, or would not show better."""


def fields(schema: Schema, path: str) -> Iterator[str]:
    for name, sub in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        yield here
        yield from fields(sub, here)
        yield from fields(sub.get("items", {}), here + "[]")


def used(data: Any, path: str) -> Iterator[str]:
    if isinstance(data, Mapping):
        for key, value in data.items():
            yield f"{path}.{key}"
            yield from used(value, f"{path}.{key}")
    elif isinstance(data, list):
        for item in data:
            yield from used(item, path + "[]")


def test_every_kind_has_an_example() -> None:
    kinds = {yaml.safe_load(path.read_text())["kind"] for path in FILES}
    assert kinds == set(KINDS)


def test_examples_load_together() -> None:
    bundle = load(EXAMPLES)
    assert isinstance(bundle, Bundle)
    experts = bundle.experts(bundle.training("orchestrator-8b").spec.tools)
    assert [pool.metadata.name for pool in experts] == ["gpt-5", "qwen3-32b"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_example_is_valid_by_the_emitted_schema(path: Path) -> None:
    data = yaml.safe_load(path.read_text())
    model = KINDS[data["kind"]]
    schema = root_schema(model) if model in FACTS else structural_schema(model)
    filled = with_defaults(schema, data)
    assert [error.message for error in OAS30Validator(schema).iter_errors(filled)] == []
    assert violations(schema, filled) == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_models_and_schema_fill_in_the_same_defaults(path: Path) -> None:
    data = yaml.safe_load(path.read_text())
    model = KINDS[data["kind"]]
    by_model = model.model_validate(data).model_dump(by_alias=True, mode="json", exclude_none=True)
    by_schema = with_defaults(structural_schema(model), data)
    assert without_empty(by_model["spec"]) == without_empty(by_schema["spec"])


def without_empty(data: Any) -> Any:
    """Empty maps left out: a map that is absent and one that is empty are the same to a reader."""
    if isinstance(data, Mapping):
        return {key: value for key, inner in data.items() if (value := without_empty(inner)) != {}}
    if isinstance(data, list):
        return [without_empty(item) for item in data]
    return data


@pytest.mark.parametrize(
    ("file", "exempt"),
    [
        ("expert-pool-vllm", "ExpertPool-vllm"),
        ("expert-pool-endpoint", "ExpertPool-endpoint"),
        ("training-full", "OrchestratorTraining-full"),
    ],
)
def test_full_examples_show_every_field(file: str, exempt: str) -> None:
    data = yaml.safe_load((EXAMPLES / f"{file}.yaml").read_text())
    schema = structural_schema(KINDS[data["kind"]])["properties"]["spec"]
    shown = set(used(data["spec"], "spec"))
    absent = [
        path
        for path in fields(schema, "spec")
        if path not in shown and not any(path.startswith(other) for other in OTHER_MEMBERS[exempt])
    ]
    shown_elsewhere = (
        "spec.parameters.",
        "spec.endpoint.parameterNames.",
        "spec.evaluation.suites[].",
        "spec.ray.head.resources.limits",
    )
    assert [path for path in absent if not path.startswith(shown_elsewhere)] == []


def test_the_minimal_training_is_minimal() -> None:
    text = (EXAMPLES / "training-minimal.yaml").read_text()
    assert len(text.splitlines()) <= 25


def test_every_spend_cap_has_room_for_a_group() -> None:
    """Else a training that somebody makes of it pauses before its first step."""
    bundle = load(FILES)
    for training in bundle.trainings:
        allowance = worst_case_usd(training.spec, bundle.pools, chat=True)
        assert not list(money_problems(training.spec, bundle.pools, allowance=allowance)), training.metadata.name
