"""The models and the emitted schema agree: what one refuses, the other refuses, over mutated examples.

The schema's side is what an API server does with strict field validation: unknown fields refused, nulls that have a
default pruned, defaults filled in, the OpenAPI schema checked, then list keys and rules.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from openapi_schema_validator import OAS30Validator

from support.mutated_examples import EXAMPLES, mutated
from toolorchestra.api import KINDS
from toolorchestra.api.documents import Document
from toolorchestra.api.load import read_resource
from toolorchestra.api.schema import Schema, structural_schema, violations, with_defaults, without_nulls


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


@pytest.mark.parametrize(
    ("name", "fine"),
    [
        ("acme-orchestra/Cheapest", True),
        ("a/b", True),
        ("a0/v1.2_x-y", True),
        ("Acme/Cheapest", False),
        ("acme/", False),
        ("/Cheapest", False),
        ("a/b/c", False),
        ("acme_orchestra/Cheapest", False),
        ("acme/" + "x" * 123, True),
        ("acme/" + "x" * 124, False),
    ],
)
def test_both_take_the_same_names_of_plug_ins(name: str, fine: bool) -> None:
    """A plug-in's combiner takes weights above 1, and its gate may be switched off."""
    data = copy.deepcopy(next(one for one in EXAMPLES if one["kind"] == "OrchestratorTraining"))
    source = {"name": "mine", "type": "Plugin", "plugin": {"name": name, "parameters": {"any": ["thing"]}}}
    plain = {"combiner": name, "weights": {"outcome": "3", "cost": "40"}, "gate": False}
    schema = structural_schema(KINDS[data["kind"]])["properties"]["spec"]
    for spec in ({"reward": plain}, {"algorithm": {"objective": name}}, {"tasks": {"sources": [source]}}):
        changed = {**data, "spec": {**data["spec"], **spec}}
        assert (refused_by_schema(schema, changed["spec"]) == []) is fine, spec
        assert (read_resource(Document(file="x.yaml", index=1, data=changed))[1] == []) is fine, spec


@pytest.mark.parametrize("data", EXAMPLES, ids=lambda data: data["kind"])
def test_an_example_as_it_is_passes_both(data: Any) -> None:
    schema = structural_schema(KINDS[data["kind"]])["properties"]["spec"]
    assert refused_by_schema(schema, data["spec"]) == []
    assert read_resource(Document(file="x.yaml", index=1, data=data))[1] == []
