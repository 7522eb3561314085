"""Check whether a schema is structural, by the rules of the API server for a CRD's schema.

Source: https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
and the API reference of JSONSchemaProps. It checks the rules that our generator could break. It knows only the keywords
that our CRDs use; any other keyword is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from toolorchestra.api.schema import Schema

TYPES = frozenset({"array", "boolean", "integer", "number", "object", "string"})
VALUE_KEYWORDS = frozenset(
    {
        "enum",
        "format",
        "maximum",
        "minimum",
        "maxItems",
        "minItems",
        "maxLength",
        "minLength",
        "maxProperties",
        "minProperties",
        "pattern",
        "required",
        "uniqueItems",
    }
)
STRUCTURE_KEYWORDS = frozenset({"type", "properties", "items", "additionalProperties", "default", "description"})
EXTENSIONS = frozenset(
    {
        "x-kubernetes-int-or-string",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-list-type",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-validations",
    }
)
INT_OR_STRING = [{"type": "integer"}, {"type": "string"}]


def structural_errors(schema: Schema, path: str = "") -> Iterator[str]:
    """Yield every violation of the structural rules, each with its path."""
    here = path or "."
    int_or_string = schema.get("x-kubernetes-int-or-string") is True
    known = VALUE_KEYWORDS | STRUCTURE_KEYWORDS | EXTENSIONS | ({"anyOf"} if int_or_string else set())
    for keyword in sorted(schema.keys() - known):
        yield f"{here}: keyword {keyword} is not allowed in a structural schema"
    yield from _type_errors(schema, here, int_or_string=int_or_string)
    yield from _list_errors(schema, here)
    yield from _default_errors(schema, here)
    if "properties" in schema and "additionalProperties" in schema:
        yield f"{here}: properties and additionalProperties exclude each other"
    for name in schema.get("required", ()):
        if name not in schema.get("properties", {}):
            yield f"{here}: requires {name}, which is not among its properties"
    for name, sub in schema.get("properties", {}).items():
        yield from structural_errors(sub, f"{path}.{name}")
    if isinstance(schema.get("additionalProperties"), dict):
        yield from structural_errors(schema["additionalProperties"], f"{path}.*")
    if "items" in schema:
        yield from structural_errors(schema["items"], f"{path}[]")


def _type_errors(schema: Schema, here: str, *, int_or_string: bool) -> Iterator[str]:
    if int_or_string:
        if "type" in schema or schema.get("anyOf") != INT_OR_STRING:
            yield f"{here}: int-or-string has no type, and anyOf integer, string"
        return
    kind = schema.get("type")
    if kind not in TYPES:
        yield f"{here}: type is {kind!r}"
    if kind == "number":
        yield f"{here}: our resources have no floats"
    if kind == "array" and not isinstance(schema.get("items"), dict):
        yield f"{here}: the array has no items"
    if isinstance(schema.get("additionalProperties"), bool):
        yield f"{here}: additionalProperties must be a schema (pruning is the default)"
    for keyword, wanted in (
        ("properties", "object"),
        ("items", "array"),
        ("pattern", "string"),
        ("minimum", "integer"),
    ):
        if keyword in schema and kind != wanted:
            yield f"{here}: {keyword} on a {kind}"


def _list_errors(schema: Schema, here: str) -> Iterator[str]:
    kind = schema.get("x-kubernetes-list-type")
    if kind is None:
        return
    if schema.get("type") != "array" or kind not in ("atomic", "set", "map"):
        yield f"{here}: list type {kind} on a {schema.get('type')}"
    items: dict[str, Any] = schema.get("items", {})
    if kind == "set" and items.get("type") not in ("string", "integer", "boolean"):
        yield f"{here}: the items of a set must be scalars"
    if kind == "map":
        for key in schema.get("x-kubernetes-list-map-keys") or [None]:
            if key not in items.get("required", ()) and "default" not in items.get("properties", {}).get(key, {}):
                yield f"{here}: list-map key {key} is not required and has no default"


def _default_errors(schema: Schema, here: str) -> Iterator[str]:
    if "default" not in schema or schema.get("x-kubernetes-int-or-string"):
        return
    default = schema["default"]
    fits: dict[str, tuple[type, ...]] = {
        "array": (list,),
        "boolean": (bool,),
        "integer": (int,),
        "object": (dict,),
        "string": (str,),
    }
    if default is None or not isinstance(default, fits.get(schema.get("type", ""), ())):
        yield f"{here}: default {default!r} is not of type {schema.get('type')}"
    if isinstance(default, dict):
        for name in schema.get("required", ()):
            if name not in default and "default" not in schema["properties"][name]:
                yield f"{here}: the default lacks {name}, which is required"
