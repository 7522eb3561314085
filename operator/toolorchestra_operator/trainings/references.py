"""Every value of a training's spec that its schema describes, with its path. Pure.

It reads the raw object, so that references are known although the models refuse the spec. Opaque parts (`podTemplate`,
a dataset's parameters) refer to nothing, whatever their fields are called.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from toolorchestra.api.schema import Schema, structural_schema
from toolorchestra.api.training import OrchestratorTraining

Path = tuple[str, ...]
_OPAQUE: Final = "x-kubernetes-preserve-unknown-fields"


def described(parent: Mapping[str, Any], *, skip: tuple[str, ...] = ()) -> Iterator[tuple[Path, Any]]:
    """Yield values in the order in which they are written, objects before their fields. `skip`: paths to leave out."""
    spec = structural_schema(OrchestratorTraining)["properties"]["spec"]
    yield from _described(parent["spec"], spec, ("spec",), skip)


def named_claim(path: Path, value: Any) -> str | None:
    """Return the claim of a `pvc://claim/…`; None: it is another URI, or only a text."""
    is_uri = path[-1].lower().endswith("uri") and isinstance(value, str) and value.startswith("pvc://")
    return value.removeprefix("pvc://").partition("/")[0] if is_uri else None


def _described(value: Any, schema: Schema, path: Path, skip: tuple[str, ...]) -> Iterator[tuple[Path, Any]]:
    if schema.get(_OPAQUE) or ".".join(path) in skip:
        return
    yield path, value
    if isinstance(value, list):
        for index, part in enumerate(value):
            yield from _described(part, schema.get("items", {}), (*path, str(index)), skip)
    elif isinstance(value, Mapping):
        known, rest = schema.get("properties", {}), schema.get("additionalProperties")
        for name, part in value.items():
            if inner := known.get(name) or rest:
                yield from _described(part, inner, (*path, name), skip)
