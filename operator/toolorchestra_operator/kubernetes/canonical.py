"""Finds out whether an apply would change anything: compares the wanted object with the live one, in our fields.

Invariants
- Pure. `differences` is empty if a forced server-side apply of `wanted` would change no value of the object.
- Our fields are those that `wanted` names, and those that we applied before (managedFields). Other fields are never
  read, so that additions of a second manager, and values that the server fills in, are no difference.
- Values are compared as the server compares them: list-maps by their keys, sets by value, atomic values as a whole
  (with the server's defaults filled in on both sides), quantities by amount; null, an empty list and an empty map as
  absent.
- The values of Secrets are never shown.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from toolorchestra_operator.kubernetes.managed_fields import (
    FieldTree,
    applied_fields,
    field_names,
    item_keys,
    set_values,
)
from toolorchestra_operator.kubernetes.manifest import Manifest
from toolorchestra_operator.kubernetes.openapi import NO_DEFAULT, Schema, Schemas, with_defaults
from toolorchestra_operator.kubernetes.quantity import amount

_OUR_METADATA: Final = ("labels", "annotations", "ownerReferences", "finalizers")
_NOT_COMPARED: Final = ("apiVersion", "kind", "metadata", "status")
_ABSENT: Final = object()
_PLAIN: Final = re.compile(r"[A-Za-z0-9_]+")
_SHOWN: Final = 80
"""Most characters of a value in a message."""


def normal(manifest: Manifest) -> dict[str, Any]:
    """Return a manifest as it is sent and compared: no nulls, a Secret's `stringData` as the server's `data`."""
    cleaned: dict[str, Any] = _without_nulls(manifest)
    if cleaned.get("kind") == "Secret" and "stringData" in cleaned:
        encoded = {key: base64.b64encode(text.encode()).decode() for key, text in cleaned.pop("stringData").items()}
        cleaned["data"] = {**cleaned.get("data", {}), **encoded}
    return cleaned


def differences(wanted: Manifest, live: Manifest, *, manager: str, schemas: Schemas) -> tuple[str, ...]:
    """Return what applying `wanted` as `manager` would change in `live`: JSON paths, each with the difference. Empty:
    nothing.

    LookupError: `schemas` does not have the kind.
    """
    schema = schemas.schema(wanted["apiVersion"], wanted["kind"])
    ours, owned = normal(wanted), applied_fields(live, manager)
    compare = _Comparison(show=wanted["kind"] != "Secret")
    metadata = compare.struct(
        {key: value for key, value in ours["metadata"].items() if key in _OUR_METADATA},
        live["metadata"],
        schema.child("metadata"),
        owned.get("f:metadata", {}),
        "metadata",
    )
    body = compare.struct(
        {key: value for key, value in ours.items() if key not in _NOT_COMPARED},
        live,
        schema,
        {step: tree for step, tree in owned.items() if step.removeprefix("f:") not in _NOT_COMPARED},
        "",
    )
    return (*metadata, *body)


def canonical(value: Any, schema: Schema) -> Any:
    """Return one form for all spellings of a value: equal exactly if the server considers them equal."""
    return _canonical(with_defaults(_without_nulls(value), schema), schema)


@dataclass(frozen=True)
class _Comparison:
    """Walks through wanted, live, schema and the tree of our fields together.

    `owned` None: we do not own it yet. A path that we own and that is absent from the live object was dropped by the
    server because its value is empty (false, 0, "", {}), not by somebody: a removal by another manager ends our
    ownership of the path.
    """

    show: bool
    """False: messages contain no values."""

    def value(self, wanted: Any, live: Any, schema: Schema, owned: FieldTree | None, path: str) -> Iterator[str]:
        if wanted is _ABSENT:
            yield f"{path}: no longer wanted"
        elif isinstance(wanted, Mapping) and not schema.atomic:
            there = {} if live is _ABSENT else live
            missing = live is _ABSENT and not wanted and owned is None and _means_something(wanted, schema)
            if missing or not isinstance(there, Mapping):
                yield self._differs(path, wanted, live)
            else:
                yield from self.struct(wanted, there, schema, owned, path)
        elif isinstance(wanted, Sequence) and not isinstance(wanted, str) and schema.list_type != "atomic":
            items = self._keyed if _has_keys(wanted, schema) else self._set
            yield from items(wanted, live if isinstance(live, list) else [], schema, owned or {}, path)
        else:
            yield from self._whole(wanted, live, schema, owned, path)

    def struct(
        self, wanted: Manifest, live: Manifest, schema: Schema, owned: FieldTree | None, path: str
    ) -> Iterator[str]:
        """Compare field by field: the wanted fields, and those that we own."""
        tree = owned or {}
        for name in dict.fromkeys((*wanted, *field_names(tree))):
            there = live.get(name)
            yield from self.value(
                wanted.get(name, _ABSENT),
                _ABSENT if there is None else there,
                schema.child(name),
                tree.get(f"f:{name}"),
                _below(path, name),
            )

    def _keyed(
        self, wanted: Sequence[Any], live: list[Any], schema: Schema, owned: FieldTree, path: str
    ) -> Iterator[str]:
        """Compare a list-map: items are matched by key, in any order."""
        there = {_key(item, schema): item for item in reversed(live) if isinstance(item, Mapping)}
        ours = {_key(fields, schema): tree for fields, tree in item_keys(owned).values()}
        seen = set()
        for item in wanted:
            key = _key(item, schema)
            at = f"{path}[{_shown_key(key)}]"
            if key in seen:
                yield f"{at}: wanted twice"
                continue
            seen.add(key)
            if key not in there:
                yield f"{at}: is not there"
            else:
                yield from self.value(item, there[key], schema.item, ours.get(key), at)
        yield from (f"{path}[{_shown_key(key)}]: no longer wanted" for key in ours if key not in seen)

    def _set(
        self, wanted: Sequence[Any], live: list[Any], schema: Schema, owned: FieldTree, path: str
    ) -> Iterator[str]:
        """Compare a set: values, in any order."""
        want, there, ours = (
            {_json(_canonical(value, schema.item)): value for value in values}
            for values in (wanted, live, set_values(owned))
        )
        yield from (f"{path}[{self._shown(value)}]: is not there" for key, value in want.items() if key not in there)
        yield from (f"{path}[{self._shown(value)}]: no longer wanted" for key, value in ours.items() if key not in want)

    def _whole(self, wanted: Any, live: Any, schema: Schema, owned: FieldTree | None, path: str) -> Iterator[str]:
        """Compare a scalar, or an atomic list or map, as a whole."""
        if live is _ABSENT:
            dropped = owned is not None and not wanted
            if not dropped and _means_something(wanted, schema):
                yield self._differs(path, wanted, live)
        elif canonical(wanted, schema) != canonical(live, schema):
            yield self._differs(path, wanted, live)

    def _differs(self, path: str, wanted: Any, live: Any) -> str:
        there = "is not there" if live is _ABSENT else f"{self._shown(live)} is there"
        return f"{path}: {self._shown(wanted)} is wanted, {there}"

    def _shown(self, value: Any) -> str:
        if not self.show:
            return "a value"
        text = _json(value)
        return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def _canonical(value: Any, schema: Schema) -> Any:
    if isinstance(value, Mapping):
        inner = {name: (_canonical(field, schema.child(name)), schema.child(name)) for name, field in value.items()}
        return {name: field for name, (field, child) in inner.items() if _means_something(field, child)}
    if isinstance(value, list | tuple):
        return [_canonical(item, schema.item) for item in value]
    if isinstance(value, bool):
        return ("bool", value)  # in Python, True == 1
    if schema.quantity:
        try:
            return ("amount", amount(value))
        except ValueError:
            return value  # the server refuses it, and names the field
    return value


def _means_something(value: Any, schema: Schema) -> bool:
    """Return False for a value that the server treats as absent: [], an empty map, a struct that is {} by default."""
    if isinstance(value, Mapping) and not value:
        return schema.is_struct and schema.default is NO_DEFAULT
    return bool(value != [])


def _has_keys(items: Sequence[Any], schema: Schema) -> bool:
    return schema.list_type == "map" and all(isinstance(item, Mapping) for item in items)


def _key(item: Mapping[str, Any], schema: Schema) -> tuple[tuple[str, str], ...]:
    """Return what identifies an item of a list-map: its key fields, with defaults filled in."""
    found = []
    for name in schema.keys:
        field = schema.item.child(name)
        value = item.get(name, field.default)
        if value is not NO_DEFAULT:
            found.append((name, _json(_canonical(value, field))))
    return tuple(found)


def _shown_key(key: tuple[tuple[str, str], ...]) -> str:
    return ",".join(f"{name}={text.strip(chr(34))}" for name, text in key)


def _below(path: str, name: str) -> str:
    if not _PLAIN.fullmatch(name):
        return f"{path}[{name}]"
    return f"{path}.{name}" if path else name


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def _without_nulls(value: Any) -> Any:
    """Return the value without the null fields of its maps and structs."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list | tuple):
        return [_without_nulls(item) for item in value]
    return value
