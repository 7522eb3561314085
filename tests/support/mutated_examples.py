"""The examples with values replaced, removed, unknown or doubled: what models and an API server have to agree about."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from toolorchestra.api import KINDS
from toolorchestra.api.schema import Path as FieldPath
from toolorchestra.api.schema import Schema, structural_schema

EXAMPLES: list[dict[str, Any]] = [
    yaml.safe_load(path.read_text()) for path in sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
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
def mutated(draw: st.DrawFn, kinds: frozenset[str] = frozenset(KINDS)) -> tuple[str, Any]:
    """The kind, and one of its examples with a mistake or two, or with other values that are right."""
    data = copy.deepcopy(draw(st.sampled_from([one for one in EXAMPLES if one["kind"] in kinds])))
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
