"""Who owns a field: `metadata.managedFields` of a live object, as trees.

Invariant, from server-side apply: a path belongs to the fields that a manager applied as long as it has the value that
the manager last applied (as the server stores it). Another writer that changes or removes the value ends the ownership.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from toolorchestra_operator.kubernetes.manifest import Manifest

FieldTree = Mapping[str, Any]
"""fieldsV1: `f:<field>`, `k:<JSON of the key fields>`, `v:<JSON of the value>`, each with a tree; `.` is the node."""


def applied_fields(live: Manifest, manager: str) -> FieldTree:
    """Return what `manager` owns by apply, without sub-resources. Empty: it never applied the object, or owns
    nothing."""
    found: dict[str, Any] = {}
    for entry in live.get("metadata", {}).get("managedFields") or ():
        if entry.get("manager") == manager and entry.get("operation") == "Apply" and not entry.get("subresource"):
            found = _joined(found, entry.get("fieldsV1") or {})
    return found


def item_keys(tree: FieldTree) -> dict[str, tuple[dict[str, Any], FieldTree]]:
    """Return the items of a list-map that a tree names: `k:…` → (its key fields, its own tree)."""
    return {step: (json.loads(step[2:]), inner) for step, inner in tree.items() if step.startswith("k:")}


def set_values(tree: FieldTree) -> list[Any]:
    """Return the values of a set that a tree names."""
    return [json.loads(step[2:]) for step in tree if step.startswith("v:")]


def field_names(tree: FieldTree) -> list[str]:
    """Return the fields of a struct or map that a tree names."""
    return [step[2:] for step in tree if step.startswith("f:")]


def _joined(one: FieldTree, other: FieldTree) -> dict[str, Any]:
    joined = dict(one)
    for step, inner in other.items():
        joined[step] = _joined(joined[step], inner) if step in joined else inner
    return joined
