"""Checks whether a part of an object that a person wrote matches the API server's schema. Pure.

The server checks it too, but only when the object is created: for an object that is created late, or for one of many,
the error would come in the middle of an attempt. What a schema does not describe may be anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from toolorchestra_operator.kubernetes.openapi import Schema
from toolorchestra_operator.kubernetes.quantity import amount


def misshapen(value: Any, schema: Schema, path: str) -> Iterator[str]:
    """Yield every error, with its path."""
    if value is None:
        return
    if schema.fields:
        yield from _struct(value, schema, path)
    elif schema.values is not None:
        yield from _map(value, schema.values, path)
    elif schema.items is not None:
        yield from _list(value, schema.items, path)
    elif schema.quantity and not _is_quantity(value):
        yield f"{path}: a quantity such as 2, 500m or 8Gi is wanted"
    elif schema.type and not _is(value, schema.type):
        yield f"{path}: {'an' if schema.type == 'integer' else 'a'} {schema.type} is wanted"


def _struct(value: Any, schema: Schema, path: str) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{path}: an object is wanted"
        return
    for name, inner in value.items():
        if name in schema.fields:
            yield from misshapen(inner, schema.fields[name], f"{path}.{name}")
        else:
            yield f"{path}.{name}: there is no such field; the fields are {', '.join(schema.fields)}"


def _map(value: Any, inner: Schema, path: str) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{path}: a map is wanted"
        return
    for name, one in value.items():
        yield from misshapen(one, inner, f"{path}[{name}]")


def _list(value: Any, inner: Schema, path: str) -> Iterator[str]:
    if not isinstance(value, list):
        yield f"{path}: a list is wanted"
        return
    for index, one in enumerate(value):
        if one is None:
            yield f"{path}[{index}]: it is empty"
        yield from misshapen(one, inner, f"{path}[{index}]")


def _is(value: Any, kind: str) -> bool:
    match kind:
        case "string":
            return isinstance(value, str)
        case "boolean":
            return isinstance(value, bool)
        case "integer":
            return isinstance(value, int) and not isinstance(value, bool)
        case _:
            return isinstance(value, int | float) and not isinstance(value, bool)


def _is_quantity(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return False
    try:
        amount(value)
    except ValueError:
        return False
    return True
