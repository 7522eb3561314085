"""Structural OpenAPI schemas out of the models, and what a schema says about plain data: defaults and rules.

What the API server does with a CRD's schema (fill in defaults, check the rules) is done here with the same schema, so
that one machine and the cluster agree. Source of the structural rules:
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
    """The model's schema without references, titles and nulls: what a CRD's `openAPIV3Schema` may hold."""
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
    """A fixed order of keywords, so that the files do not depend on a library's: what it is first, its parts last."""
    parts = ("items", "additionalProperties", "required", "properties")
    if keyword in parts:
        return 2 + parts.index(keyword), keyword
    return (0, "") if keyword == "type" else (1, keyword)


def without_nulls(schema: Schema, data: Any) -> Any:
    """A copy of the data without keys that have no value: the API server takes them for absent.

    Source: PruneNonNullableNullsWithoutDefaults in k8s.io/apiextensions-apiserver; a null that has a default gets it,
    which comes to the same.
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
    """A copy of the data, which has no nulls, with the schema's defaults filled in."""
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
    """Rules that plain data (defaults filled in) breaks: where, and what would be right.

    Data may be malformed elsewhere: a rule that cannot be judged because a field it reads has the wrong shape is
    passed over, since that field has its own message.
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
    """Items that a list-map or a set holds twice."""
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
            yield where, f'"{name}" is there twice; each must differ'
        seen.append(identity)
