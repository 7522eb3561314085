"""The CRDs: up to date with the models, structural, small, and pointing only at fields that exist."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from toolorchestra.api.crd import FACTS, MAX_BYTES, crd, crd_files, root_schema
from toolorchestra.api.kinds import CUSTOM_RESOURCES, KINDS
from toolorchestra.api.rules import VALIDATIONS, check_of
from toolorchestra.api.schema import Schema, structural_schema
from toolorchestra.api.structural import structural_errors
from toolorchestra.cli.crds import crds

REPOSITORY = Path(__file__).parents[3]
APP = typer.Typer()
APP.command()(crds)


def nodes(schema: Schema, path: str = "") -> Iterator[tuple[str, Schema]]:
    yield path, schema
    for name, sub in schema.get("properties", {}).items():
        yield from nodes(sub, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from nodes(schema[key], f"{path}[]")


def described(schema: Schema, path: str) -> bool:
    """Whether a dotted path leads to a field of the schema."""
    node: Any = schema
    for part in path.strip(".").split("."):
        if "properties" not in node:
            return False
        node = node["properties"].get(part)
        if node is None:
            return False
    return True


@pytest.mark.parametrize("name", crd_files())
def test_crds_are_up_to_date(name: str) -> None:
    assert (REPOSITORY / "crds" / name).read_text() == crd_files()[name], "run: orchestra crds"


def test_no_crd_is_left_over() -> None:
    assert {path.name for path in (REPOSITORY / "crds").iterdir()} == set(crd_files())


@pytest.mark.parametrize("name", crd_files())
def test_crds_are_small_and_read_back_as_written(name: str) -> None:
    text = crd_files()[name]
    assert len(text.encode()) < MAX_BYTES
    assert yaml.safe_load(text) in [crd(kind) for kind in FACTS]


@pytest.mark.parametrize("kind", CUSTOM_RESOURCES)
def test_schemas_are_structural(kind: Any) -> None:
    assert list(structural_errors(root_schema(kind))) == []


@pytest.mark.parametrize("kind", KINDS.values())
def test_no_floats_and_no_references_anywhere(kind: Any) -> None:
    for path, node in nodes(structural_schema(kind)):
        assert node.get("type") != "number", path
        assert not {"$ref", "title", "const", "oneOf", "allOf", "nullable"} & node.keys(), path


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "object", "properties": {"a": {"$ref": "#/x"}}}, "$ref"),
        ({"type": "object", "title": "T"}, "title"),
        ({"type": "object", "properties": {"a": {}}}, "type is None"),
        ({"type": "object", "additionalProperties": False}, "additionalProperties"),
        ({"type": "array"}, "has no items"),
        ({"type": "object", "required": ["b"], "properties": {"a": {"type": "string"}}}, "requires b"),
        ({"type": "number"}, "floats"),
        ({"type": "string", "default": None}, "default None"),
        ({"type": "object", "default": {}, "required": ["a"], "properties": {"a": {"type": "string"}}}, "lacks a"),
        ({"type": "string", "minimum": 1}, "minimum on a string"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "anyOf"),
        ({"x-kubernetes-int-or-string": True, "type": "string"}, "int-or-string"),
        (
            {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object", "properties": {}}},
            "the items of a set must be scalars",
        ),
        (
            {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
                "items": {"type": "object", "properties": {"name": {"type": "string"}}},
            },
            "list-map key name",
        ),
        (
            {
                "type": "object",
                "properties": {"a": {"type": "string"}},
                "additionalProperties": {"type": "string"},
            },
            "exclude each other",
        ),
    ],
)
def test_the_checker_sees_what_is_not_structural(schema: Schema, says: str) -> None:
    assert any(says in error for error in structural_errors(schema))


@pytest.mark.parametrize("kind", CUSTOM_RESOURCES)
def test_columns_selectable_fields_and_scale_point_at_fields(kind: Any) -> None:
    schema, version = root_schema(kind), crd(kind)["spec"]["versions"][0]
    paths = [column["jsonPath"] for column in version["additionalPrinterColumns"]]
    paths += [one["jsonPath"] for one in version["selectableFields"]]
    paths += list(version["subresources"].get("scale", {}).values())
    for path in paths:
        plain = re.sub(r"\[\?.*", "", path)
        assert plain == ".metadata.creationTimestamp" or described(schema, plain), path


@pytest.mark.parametrize("kind", KINDS.values())
def test_rules_read_only_fields_that_exist(kind: Any) -> None:
    seen = 0
    for path, node in nodes(structural_schema(kind)):
        for declared in node.get(VALIDATIONS, ()):
            seen += 1
            for field in re.findall(r"\b(?:self|oldSelf)((?:\.[a-zA-Z]\w*)+)\b(?!\()", declared["rule"]):
                without_method = re.sub(r"\.(all|exists|size)$", "", field)
                assert described(node, without_method), f"{path}: {declared['rule']} reads {field}"
            if "fieldPath" in declared:
                assert described(node, declared["fieldPath"]), f"{path}: {declared['fieldPath']}"
            is_transition = "oldSelf" in declared["rule"]
            assert is_transition == (check_of(declared["rule"]) is None), declared["rule"]
    assert seen


@pytest.mark.parametrize("kind", CUSTOM_RESOURCES)
def test_everything_that_rules_walk_is_bounded(kind: Any) -> None:
    """CEL's cost is estimated from the bounds: a list or map in the spec without one makes its parent's rules dear."""
    for path, node in nodes(root_schema(kind)["properties"]["spec"]):
        if node.get("type") == "array":
            assert "maxItems" in node, path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path
        if node.get("type") == "string":
            assert "maxLength" in node or "enum" in node or "format" in node, path


@pytest.mark.parametrize("kind", CUSTOM_RESOURCES)
def test_rules_hold_on_an_empty_parent(kind: Any) -> None:
    """The API server puts `default: {}` to the rules as it stands, before the defaults inside it are filled in."""
    for path, node in nodes(root_schema(kind)):
        for declared in node.get(VALIDATIONS, ()):
            if "oldSelf" in declared["rule"]:
                continue
            for field in set(re.findall(r"\bself\.(\w+)", declared["rule"])):
                if "default" in node["properties"][field]:
                    guard = f"!has(self.{field}) || "
                    assert declared["rule"].startswith("!has(self."), f"{path}: {declared['rule']}"
                    assert guard in declared["rule"], f"{path}: {declared['rule']} must begin with {guard}"


@pytest.mark.parametrize("kind", CUSTOM_RESOURCES)
def test_one_served_version_in_our_own_category(kind: Any) -> None:
    spec = crd(kind)["spec"]
    assert [version["name"] for version in spec["versions"]] == ["v1alpha1"]
    assert spec["names"]["categories"] == ["toolorchestra"]
    assert spec["names"]["shortNames"] == [{"ExpertPool": "xp", "OrchestratorTraining": "ot"}[kind.__name__]]
    assert spec["scope"] == "Namespaced"


def test_the_command_writes_then_finds_nothing_to_do_then_notices_an_edit(tmp_path: Path) -> None:
    run = CliRunner()
    arguments = ["--out", str(tmp_path / "crds"), "--docs", str(tmp_path / "docs")]
    assert run.invoke(APP, [*arguments, "--check"]).exit_code == 1
    assert not (tmp_path / "crds").exists(), "--check must write nothing"
    assert run.invoke(APP, arguments).exit_code == 0
    assert run.invoke(APP, [*arguments, "--check"]).exit_code == 0
    edited = tmp_path / "crds" / "toolorchestra.dev_expertpools.yaml"
    edited.write_text(edited.read_text() + "# by hand\n")
    checked = run.invoke(APP, [*arguments, "--check"])
    assert checked.exit_code == 1
    assert str(edited) in checked.output
    assert "resources.md is not" not in checked.output
