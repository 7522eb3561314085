"""The models and the emitted schema agree: what one refuses, the other refuses, over mutated examples.

The schema's side is what an API server does with strict field validation: unknown fields refused, nulls that have a
default pruned, defaults filled in, the OpenAPI schema checked, then list keys and rules.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from openapi_schema_validator import OAS30Validator

from toolorchestra.api import KINDS
from toolorchestra.api.documents import Document
from toolorchestra.api.load import read_resource
from toolorchestra.api.schema import Path as FieldPath
from toolorchestra.api.schema import Schema, structural_schema, violations, with_defaults, without_nulls

EXAMPLES = [
    yaml.safe_load(path.read_text()) for path in sorted((Path(__file__).parents[3] / "examples").glob("*.yaml"))
]
VALUES: list[Any] = [
    None,
    True,
    False,
    0,
    1,
    2,
    -1,
    7,
    10**12,
    "",
    "0",
    "1",
    "0.5",
    "1.5",
    "-1",
    "1e-3",
    "abc",
    "Abc",
    "a" * 50,
    "a b",
    "hf://a/b",
    "pvc://a/b",
    "http://a/b",
    "Endpoint",
    "VLLM",
    "JSONL",
    "URI",
    "GDPO",
    "WeightedSum",
    "8Gi",
    [],
    {},
    ["a"],
    ["a", "a"],
    [1],
    [{}],
    {"name": "a"},
    {"a": "b"},
    {"pool": "a"},
]


def places(data: Any, schema: Schema, path: FieldPath = ()) -> Iterator[FieldPath]:
    """Every path of the spec that the schema knows: what is opaque to it (a pod template) is left alone."""
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return
    if path:
        yield path
    if isinstance(data, Mapping):
        for key, value in data.items():
            sub = schema.get("properties", {}).get(key) or schema.get("additionalProperties") or {}
            yield from places(value, sub, (*path, key))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from places(value, schema.get("items", {}), (*path, index))


def holder(data: Any, path: FieldPath) -> Any:
    for part in path[:-1]:
        data = data[part]
    return data


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, Any]:
    data = copy.deepcopy(draw(st.sampled_from(EXAMPLES)))
    schema = structural_schema(KINDS[data["kind"]])["properties"]["spec"]
    for _ in range(draw(st.integers(1, 2))):
        path = draw(st.sampled_from(list(places(data["spec"], schema))))
        inside = holder(data["spec"], path)
        match draw(st.sampled_from(["replace", "replace", "remove", "unknown", "repeat"])):
            case "replace":
                inside[path[-1]] = copy.deepcopy(draw(st.sampled_from(VALUES)))
            case "remove":
                del inside[path[-1]]
            case "unknown" if isinstance(inside, dict):
                inside["unheardOf"] = 1
            case "repeat" if isinstance(inside, list):
                inside.append(copy.deepcopy(inside[0]))
            case _:
                pass
    return data["kind"], data


def unknown(schema: Schema, data: Any) -> bool:
    if isinstance(data, Mapping) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        known, rest = schema.get("properties", {}), schema.get("additionalProperties")
        return any(
            unknown(known.get(key) or rest, value) if key in known or rest else True for key, value in data.items()
        )
    if isinstance(data, list):
        return any(unknown(schema.get("items", {}), item) for item in data)
    return False


def refused_by_schema(schema: Schema, data: Any) -> list[str]:
    if unknown(schema, data):
        return ["unknown field"]
    filled = with_defaults(schema, without_nulls(schema, data))
    errors = [f"{list(error.path)}: {error.message}" for error in OAS30Validator(schema).iter_errors(filled)]
    return errors or [f"{path}: {message}" for path, message in violations(schema, filled)]


@settings(max_examples=600, deadline=None)
@given(mutated())
def test_models_and_schema_agree_on_mutated_examples(case: tuple[str, Any]) -> None:
    kind, data = case
    schema = structural_schema(KINDS[kind])["properties"]["spec"]
    _, by_models = read_resource(Document(file="x.yaml", index=1, data=data))
    by_schema = refused_by_schema(schema, data["spec"])
    assert bool(by_models) == bool(by_schema), (by_models, by_schema)


@pytest.mark.parametrize("value", [-1, "-1", 1.5, "8GiB", "lots", True, [], {}])
def test_both_refuse_what_is_no_quantity(value: Any) -> None:
    data = copy.deepcopy(next(one for one in EXAMPLES if "vllm" in one["spec"]))
    data["spec"]["vllm"]["resources"]["limits"]["memory"] = value
    schema = structural_schema(KINDS[data["kind"]])["properties"]["spec"]
    assert refused_by_schema(schema, data["spec"])
    assert read_resource(Document(file="x.yaml", index=1, data=data))[1]


@pytest.mark.parametrize("data", EXAMPLES, ids=lambda data: data["kind"])
def test_an_example_as_it_is_passes_both(data: Any) -> None:
    schema = structural_schema(KINDS[data["kind"]])["properties"]["spec"]
    assert refused_by_schema(schema, data["spec"]) == []
    assert read_resource(Document(file="x.yaml", index=1, data=data))[1] == []
