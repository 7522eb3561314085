"""Rules over several fields: each has one CEL expression for the API server and one equivalent Python check.

A model declares its rules with `model_config = ruled(...)`. The check gets the same input as CEL: the plain object with
YAML names and defaults, without absent keys. Rules over `oldSelf` (immutability) have no check: only the API server
knows the object's earlier state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ConfigDict

Check = Callable[[Mapping[str, Any]], bool]

NEW_TRAINING = "make a new training (its model.uri may be the model that this one exported)"

VALIDATIONS = "x-kubernetes-validations"

_checks: dict[str, Check] = {}


def check_of(cel: str) -> Check | None:
    """Return the Python check of a CEL expression; None for a rule over `oldSelf`."""
    return _checks.get(cel)


def rule(cel: str, message: str, *, check: Check, at: str = "", defaulted: tuple[str, ...] = ()) -> dict[str, str]:
    """Return one rule. `at`: the field that the message is about, relative to the model that declares the rule.

    `defaulted`: the fields with a default that the rule reads. The API server evaluates rules on a parent's
    `default: {}` while it is still empty, so the rule must hold without these fields.
    """
    guarded = "".join(f"!has(self.{field}) || " for field in defaulted) + (f"({cel})" if defaulted else cel)
    _checks[guarded] = check
    return {"rule": guarded, "message": message} | ({"fieldPath": f".{at}"} if at else {})


def ruled(*rules: dict[str, str] | list[dict[str, str]]) -> ConfigDict:
    """Return a model configuration that declares these rules."""
    flat = [one for group in rules for one in (group if isinstance(group, list) else [group])]
    return ConfigDict(json_schema_extra={VALIDATIONS: [dict(one) for one in flat]})


def union(**members: str) -> list[dict[str, str]]:
    """Return the rules of a union by `type`: `union(VLLM="vllm", Endpoint="endpoint")`.

    The member of the given `type` is required, unless its name here ends in `?`. Members of other types are refused.
    """
    return [one for kind, member in members.items() for one in _member(kind, member)]


def _member(kind: str, member: str) -> list[dict[str, str]]:
    field, optional = member.removesuffix("?"), member.endswith("?")

    def foreign(s: Mapping[str, Any]) -> bool:
        return s["type"] == kind or field not in s

    def present(s: Mapping[str, Any]) -> bool:
        return s["type"] != kind or field in s

    only = rule(
        f"self.type == '{kind}' || !has(self.{field})",
        f"{field} is only for type {kind}",
        check=foreign,
        at=field,
        defaulted=("type",),
    )
    needs = rule(
        f"self.type != '{kind}' || has(self.{field})",
        f"type {kind} needs {field}",
        check=present,
        at=field,
        defaulted=("type",),
    )
    return [only] if optional else [only, needs]


def immutable(*fields: str, why: str, unless: str = "") -> list[dict[str, str]]:
    """Return rules that refuse to change, add or remove these fields. `unless`: a CEL condition that allows it."""
    return [
        {
            "rule": (f"{unless} || " if unless else "")
            + f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})",
            "message": f"{field} is immutable: {why}",
            "fieldPath": f".{field}",
        }
        for field in fields
    ]
