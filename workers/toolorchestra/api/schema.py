"""Build structural OpenAPI schemas from the models, and apply their defaults and rules to plain data.

The API server fills in defaults and checks the rules of a CRD's schema. This module does the same with the same schema,
so that one machine and the cluster agree. Source of the structural rules:
https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterator, Mapping
from copy import deepcopy
from typing import Any

from pydantic import BaseModel

from toolorchestra.api.rules import VALIDATIONS, check_of

Schema = dict[str, Any]
Path = tuple[str | int, ...]

_DROPPED = ("title", "additionalProperties", "propertyNames", "$defs", "const", "discriminator")


@functools.cache
def structural_schema(model: type[BaseModel]) -> Schema:
    """Return the model's schema without references, titles and nulls, as a CRD's `openAPIV3Schema` requires."""
    raw = model.model_json_schema(by_alias=True, mode="validation")
    return _structural(raw, raw.get("$defs", {}))


def _structural(node: Schema, definitions: Mapping[str, Schema]) -> Schema:
    node = dict(node)
    if "$ref" in node:
        target = definitions[node.pop("$ref").removeprefix("#/$defs/")]
        node = {**target, **node}
    if "anyOf" in node and not node.get("x-kubernetes-int-or-string"):
        alternatives = [one for one in node.pop("anyOf") if one.get("type") != "null"]
        if len(alternatives) != 1:
            raise TypeError(f"a union without a discriminator has no structural schema: {alternatives}")
        inner = _structural(alternatives[0], definitions)
        node = {**inner, **node}
        if node.get("default", ...) is None:
            del node["default"]
        return _structural(node, definitions)
    result = {key: value for key, value in node.items() if key not in _DROPPED}
    if "description" in result:
        result["description"] = inspect.cleandoc(result["description"]).replace("\n", " ")
    if "const" in node:
        result["enum"] = [node["const"]]
    if "properties" in node:
        result["properties"] = {name: _structural(sub, definitions) for name, sub in node["properties"].items()}
    if "items" in node:
        result["items"] = _structural(node["items"], definitions)
    extra = node.get("additionalProperties")
    if isinstance(extra, dict) and not node.get("x-kubernetes-preserve-unknown-fields"):
        result["additionalProperties"] = _structural(extra, definitions)
    elif extra is True:
        result["x-kubernetes-preserve-unknown-fields"] = True
    return {key: result[key] for key in sorted(result, key=_rank)}


def _rank(keyword: str) -> tuple[int, str]:
    """Return a sort key, so that files do not depend on a library's order of keywords: type first, parts last."""
    parts = ("items", "additionalProperties", "required", "properties")
    if keyword in parts:
        return 2 + parts.index(keyword), keyword
    return (0, "") if keyword == "type" else (1, keyword)


def without_nulls(schema: Schema, data: Any) -> Any:
    """Return a copy of the data without keys whose value is null: the API server treats them as absent.

    Source: PruneNonNullableNullsWithoutDefaults in k8s.io/apiextensions-apiserver. There, a null with a default gets
    the default, which has the same result.
    """
    if isinstance(data, Mapping):
        known, rest = schema.get("properties", {}), schema.get("additionalProperties")
        return {
            key: without_nulls(_property(schema, key), value)
            for key, value in data.items()
            if value is not None or not (key in known or rest)
        }
    if isinstance(data, list):
        return [without_nulls(schema.get("items", {}), item) for item in data]
    return data


def with_defaults(schema: Schema, data: Any) -> Any:
    """Return a copy of the data with the schema's defaults filled in. The data must have no nulls."""
    if isinstance(data, Mapping):
        filled = dict(data)
        for name, sub in schema.get("properties", {}).items():
            if "default" in sub and name not in filled:
                filled[name] = deepcopy(sub["default"])
        return {key: with_defaults(_property(schema, key), value) for key, value in filled.items()}
    if isinstance(data, list | tuple):
        return [with_defaults(schema.get("items", {}), item) for item in data]
    return data


def _property(schema: Schema, key: str) -> Schema:
    sub = schema.get("properties", {}).get(key) or schema.get("additionalProperties") or {}
    assert isinstance(sub, dict)
    return sub


def violations(schema: Schema, data: Any) -> list[tuple[Path, str]]:
    """Return the rules that plain data (with defaults) breaks: the path, and what would be right.

    A rule is skipped if it cannot be evaluated because a field that it reads is malformed: that field has its own
    message.
    """
    return list(_violations(schema, data, ()))


def _violations(schema: Schema, data: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(data, Mapping):
        for declared in schema.get(VALIDATIONS, ()):
            check = check_of(declared["rule"])
            if check is not None and not _holds(check, data):
                at = tuple(declared.get("fieldPath", "").split(".")[1:])
                yield path + at, declared["message"]
        for key, value in data.items():
            yield from _violations(_property(schema, key), value, (*path, key))
    elif isinstance(data, list):
        yield from _repeated(schema, data, path)
        for index, item in enumerate(data):
            yield from _violations(schema.get("items", {}), item, (*path, index))


def _holds(check: Any, data: Mapping[str, Any]) -> bool:
    try:
        return bool(check(data))
    except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError):
        return True


def _repeated(schema: Schema, data: list[Any], path: Path) -> Iterator[tuple[Path, str]]:
    """Yield the repeated items of a list-map or a set."""
    kind = schema.get("x-kubernetes-list-type")
    if kind not in ("map", "set"):
        return
    keys = schema.get("x-kubernetes-list-map-keys", [])
    seen: list[Any] = []
    for index, item in enumerate(data):
        if kind == "map" and not isinstance(item, Mapping):
            continue
        identity = [item.get(key) for key in keys] if kind == "map" else item
        if identity in seen:
            where = (*path, index, keys[0]) if kind == "map" else (*path, index)
            name = identity[0] if kind == "map" else identity
            yield where, f'"{name}" is repeated; each must be different'
        seen.append(identity)
