"""Small changes of manifests, at every place: what a comparison has to see, and what it must not."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

from toolorchestra_operator.kubernetes.openapi import Schema
from toolorchestra_operator.kubernetes.quantity import amount

KEY_FIELDS = ("name", "containerPort", "port", "mountPath", "topologyKey", "whenUnsatisfiable")
"""Fields without which an item of a list could not be told from the others."""


def scalars(manifest: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every scalar that is compared and does not tell the items of a list apart."""
    for key, value in manifest.items():
        if key == "metadata":
            for name in ("labels", "annotations"):
                yield from _scalars(value.get(name, {}))
        elif isinstance(value, dict | list):
            yield from _scalars(value)
        elif key not in ("apiVersion", "kind"):
            yield manifest, key


def _scalars(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(inner, dict | list):
            yield from _scalars(inner)
        elif key not in (*KEY_FIELDS, "protocol"):
            yield value, key


def other_than(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case _:
            return f"1{value}" if value[:1].isdigit() else f"{value}x"


def removable(value: Any, schema: Schema, top: bool = True) -> Iterator[tuple[Any, Any]]:
    """(container, key) of every field, list-map item and set value that can be left out."""
    if isinstance(value, dict) and not schema.atomic:
        for name, inner in value.items():
            child = schema.child(name)
            if top and name in ("apiVersion", "kind"):
                continue
            if top and name == "metadata":
                for part in ("labels", "annotations", "finalizers"):
                    if value[name].get(part):
                        yield value[name], part
                continue
            if name not in KEY_FIELDS:
                yield value, name
            yield from removable(inner, child, top=False)
    elif isinstance(value, list) and schema.list_type != "atomic":
        for index, item in enumerate(value):
            yield value, index
            if schema.list_type == "map" and not schema.item.atomic:
                yield from removable(item, schema.item, top=False)


def respelled(value: Any, schema: Schema, chance: random.Random, *, whole: bool = False) -> Any:
    """The same, said otherwise: list-maps and sets in another order, quantities in other units, nulls for absence.

    `whole`: inside an atomic value, where order counts.
    """
    if schema.quantity:
        return chance.choice([value, f"{(amount(value) * 1000):f}m", f"{amount(value):f}"])
    if isinstance(value, dict):
        below = whole or schema.atomic
        items = [(name, respelled(inner, schema.child(name), chance, whole=below)) for name, inner in value.items()]
        chance.shuffle(items)
        return {**dict(items), "aFieldThatIsNull": None}
    if isinstance(value, list):
        below = whole or schema.list_type == "atomic"
        items = [respelled(item, schema.item, chance, whole=below) for item in value]
        if not below:
            chance.shuffle(items)
        return items
    return value


def content(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What an object says, without its versions and whose fields are whose."""
    metadata = {
        k: v for k, v in manifest["metadata"].items() if k not in ("managedFields", "resourceVersion", "generation")
    }
    return {**{k: v for k, v in manifest.items() if k != "status"}, "metadata": metadata}
