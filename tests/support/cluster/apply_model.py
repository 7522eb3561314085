"""A small in-memory API server: server-side apply, updates, defaulting, canonical spelling. No validation.

Written from structured-merge-diff's rules and independent of the operator's comparison: it shares only the schemas.
- Apply merges what is applied into what is there (list-maps by key, sets by value, atomic values whole), takes away
  what this manager applied before and nobody else owns, and moves what it changes to this manager.
- Storing fills in declared defaults, some that only the server's code knows, spells quantities its own way, and drops
  what Go drops: empty lists and maps, and false in fields that are no pointers. Custom resources: defaults only.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from toolorchestra_operator.kubernetes.openapi import NO_DEFAULT, Schema, Schemas

Path = tuple[tuple[str, str], ...]
"""Steps ("f", field), ("k", JSON of keys), ("v", JSON of a value)."""

CODE_DEFAULTS: dict[tuple[str, ...], Any] = {
    ("spec", "template", "spec", "dnsPolicy"): "ClusterFirst",
    ("spec", "template", "spec", "securityContext"): {},
    ("spec", "template", "spec", "containers", "*", "imagePullPolicy"): "IfNotPresent",
    ("spec", "template", "spec", "containers", "*", "terminationMessagePath"): "/dev/termination-log",
    ("spec", "progressDeadlineSeconds"): 600,
    ("spec", "sessionAffinity"): "None",
    ("spec", "volumeMode"): "Filesystem",
}
"""What every kind of ours gets where it has the parent field: more than the real server, and so harder."""
VALUE_FIELDS = ("hostNetwork", "hostPID", "stdin", "tty", "paused", "readOnly", "publishNotReadyAddresses")
"""Fields that are no pointers: false is dropped."""


@dataclass
class ApplyModel:
    """One object of one kind."""

    schemas: Schemas
    live: dict[str, Any] | None = None
    owners: dict[tuple[str, str], set[Path]] = field(default_factory=dict)
    """(manager, operation) → paths."""

    def apply(self, manifest: Mapping[str, Any], *, manager: str) -> dict[str, Any]:
        """Forced server-side apply; the object as it is then."""
        applied = copy.deepcopy(dict(manifest))
        schema = self._schema(applied)
        me = (manager, "Apply")
        new = set(paths(_body(applied), schema))
        before = self.live or {"apiVersion": applied["apiVersion"], "kind": applied["kind"], "metadata": {}}
        merged = merge(before, applied, schema)
        kept = new.union(*(owned for who, owned in self.owners.items() if who != me))
        for path in sorted(self.owners.get(me, set()) - new, key=len):  # an item before the fields that name it
            if not any(other[: len(path)] == path for other in kept):
                remove(merged, path, schema)
        return self._store(merged, me, new, schema)

    def update(self, changed: Mapping[str, Any], *, manager: str) -> dict[str, Any]:
        """Replace the object (an edit by hand): what changed is this manager's now."""
        assert self.live is not None
        schema = self._schema(self.live)
        before, after = leaves(_body(self.live), schema), leaves(_body(changed), schema)
        new = {path for path in after if path not in before or before[path] != after[path]}
        old = self.owners.get((manager, "Update"), set())
        return self._store(copy.deepcopy(dict(changed)), (manager, "Update"), new | old, schema)

    def _schema(self, manifest: Mapping[str, Any]) -> Schema:
        return self.schemas.schema(manifest["apiVersion"], manifest["kind"])

    def _store(self, merged: dict[str, Any], me: tuple[str, str], new: set[Path], schema: Schema) -> dict[str, Any]:
        before = leaves(_body(self.live), schema) if self.live else {}
        merged["metadata"].pop("managedFields", None)
        stored = store(merged, schema)
        raw = leaves(_body(merged), schema)
        for who, owned in self.owners.items():
            if who != me:
                gone = {p for p in owned if p in before and p not in raw}
                changed = {p for p in owned & new if p in before and before[p] != raw.get(p)}
                owned -= gone | changed
        self.owners[me] = new
        stored["metadata"]["managedFields"] = [
            {"manager": manager, "operation": operation, "apiVersion": stored["apiVersion"], "fieldsV1": tree(owned)}
            for (manager, operation), owned in self.owners.items()
            if owned
        ]
        self.live = stored
        return copy.deepcopy(stored)


def merge(live: Any, applied: Any, schema: Schema) -> Any:
    """What is applied, into what is there."""
    if isinstance(applied, Mapping) and isinstance(live, Mapping) and not schema.atomic:
        merged = dict(live)
        for name, value in applied.items():
            merged[name] = merge(live.get(name), value, schema.child(name))
        return merged
    if isinstance(applied, list) and schema.list_type == "map":
        rest = {keys_of(item, schema): item for item in live or ()}
        mine = [merge(rest.pop(keys_of(item, schema), None), item, schema.item) for item in applied]
        return [*mine, *rest.values()]
    if isinstance(applied, list) and schema.list_type == "set":
        return [*applied, *(value for value in live or () if value not in applied)]
    return copy.deepcopy(applied)


def remove(value: Any, path: Path, schema: Schema) -> None:
    """Take the value at `path` away, and the containers that it leaves empty."""
    (step, name), rest = path[0], path[1:]
    if step == "f" and isinstance(value, dict) and name in value:
        child = schema.child(name)
        if rest:
            remove(value[name], rest, child)
        if not rest or value[name] in ([], {}):
            del value[name]
    elif step == "k" and isinstance(value, list):
        for item in [item for item in value if keys_of(item, schema) == name]:
            if rest:
                remove(item, rest, schema.item)
            else:
                value.remove(item)
    elif step == "v" and isinstance(value, list):
        value[:] = [item for item in value if json.dumps(item) != name]


def leaves(value: Any, schema: Schema) -> dict[Path, Any]:
    """Every path that can have an owner, with its value."""
    return dict(_leaves(value, schema, ()))


def paths(value: Any, schema: Schema) -> Iterator[Path]:
    return iter(leaves(value, schema))


def _leaves(value: Any, schema: Schema, at: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, Mapping) and not schema.atomic and (value or not at):
        for name, inner in value.items():
            yield from _leaves(inner, schema.child(name), (*at, ("f", name)))
    elif isinstance(value, list) and schema.list_type == "map" and value:
        for item in value:
            here = (*at, ("k", keys_of(item, schema)))
            yield here, None
            if not schema.item.atomic:
                yield from _leaves(item, schema.item, here)
    elif isinstance(value, list) and schema.list_type == "set" and value:
        yield from (((*at, ("v", json.dumps(item))), None) for item in value)
    else:
        yield at, value


def keys_of(item: Mapping[str, Any], schema: Schema) -> str:
    found = {name: item.get(name, schema.item.child(name).default) for name in schema.keys}
    return json.dumps({name: value for name, value in found.items() if value is not NO_DEFAULT}, sort_keys=True)


def tree(owned: set[Path]) -> dict[str, Any]:
    """Paths as fieldsV1."""
    root: dict[str, Any] = {}
    for path in sorted(owned):
        node = root
        for step, name in path:
            node = node.setdefault(f"{step}:{name}", {})
        if path[-1][0] == "k":
            node["."] = {}
    return root


def store(value: dict[str, Any], schema: Schema) -> dict[str, Any]:
    """What the server keeps of what it got."""
    built_in = "." not in value["apiVersion"].split("/")[0] or value["apiVersion"].split("/")[0].endswith("k8s.io")
    stored = _defaulted(copy.deepcopy(value), schema)
    if built_in:
        for path, default in CODE_DEFAULTS.items():
            _default_at(stored, path, default)
        stored = _as_go(stored, schema)
    return dict(stored)


def _defaulted(value: Any, schema: Schema) -> Any:
    if isinstance(value, Mapping):
        found = {name: _defaulted(inner, schema.child(name)) for name, inner in value.items()}
        for name, child in schema.fields.items():
            if name not in found and child.default not in (NO_DEFAULT, "", 0):
                found[name] = _defaulted(child.default, child)
        return found
    return [_defaulted(item, schema.item) for item in value] if isinstance(value, list) else value


def _default_at(value: Any, path: tuple[str, ...], default: Any) -> None:
    if path[0] == "*":
        for item in value:
            _default_at(item, path[1:], default)
    elif len(path) == 1:
        value.setdefault(path[0], copy.deepcopy(default))
    elif path[0] in value:
        _default_at(value[path[0]], path[1:], default)


def _as_go(value: Any, schema: Schema) -> Any:
    """Read into Go's types and written out again."""
    if isinstance(value, Mapping):
        inner = {name: _as_go(found, schema.child(name)) for name, found in value.items()}
        return {name: found for name, found in inner.items() if not _dropped(name, found, schema.child(name))}
    if isinstance(value, list):
        return [_as_go(item, schema.item) for item in value]
    return spelled(str(value)) if schema.quantity else value


def _dropped(name: str, value: Any, schema: Schema) -> bool:
    empty_map = value == {} and not schema.is_struct
    return value == [] or empty_map or (value is False and name in VALUE_FIELDS)


_BINARY = {f"{unit}i": 2 ** (10 * power) for power, unit in enumerate("KMGTPE", 1)}
_DECIMAL = {"m": Decimal("0.001"), "": Decimal(1)} | {unit: Decimal(10**3) ** n for n, unit in enumerate("kMGTPE", 1)}


def spelled(quantity: str) -> str:
    """A quantity in the server's spelling: the largest unit of its family that leaves a whole number."""
    units: Mapping[str, Any] = _BINARY if quantity.endswith("i") else _DECIMAL
    unit = quantity.lstrip("0123456789.")
    number = Decimal(quantity.removesuffix(unit)) * units[unit]
    best = max((size, name) for name, size in units.items() if number % size == 0)
    return f"{int(number / best[0])}{best[1]}"


def _body(manifest: Mapping[str, Any]) -> dict[str, Any]:
    kept = {"labels", "annotations", "ownerReferences", "finalizers"}
    body = {key: value for key, value in manifest.items() if key not in ("apiVersion", "kind", "status")}
    return {**body, "metadata": {key: value for key, value in manifest["metadata"].items() if key in kept}}
