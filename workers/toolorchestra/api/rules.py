"""Rules over several fields: one CEL expression for the API server and one Python check, side by side.

A model declares its rules with `model_config = ruled(...)`. The check sees what CEL sees: the plain object in YAML
names, defaults filled in, absent keys absent. Rules over `oldSelf` (immutability) have no check: only the API server
knows the object's past.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ConfigDict

Check = Callable[[Mapping[str, Any]], bool]

NEW_TRAINING = "make a new training (initFrom can continue from this one)"

VALIDATIONS = "x-kubernetes-validations"

_checks: dict[str, Check] = {}


def check_of(cel: str) -> Check | None:
    """The Python check beside a CEL expression; None for a rule on the object's past."""
    return _checks.get(cel)


def rule(cel: str, message: str, *, check: Check, at: str = "") -> dict[str, str]:
    """One rule. `at` is the field that the message is about, relative to the model that declares the rule."""
    _checks[cel] = check
    return {"rule": cel, "message": message} | ({"fieldPath": f".{at}"} if at else {})


def ruled(*rules: dict[str, str] | list[dict[str, str]]) -> ConfigDict:
    """Model configuration that declares these rules."""
    flat = [one for group in rules for one in (group if isinstance(group, list) else [group])]
    return ConfigDict(json_schema_extra={VALIDATIONS: [dict(one) for one in flat]})


def union(**members: str | None) -> list[dict[str, str]]:
    """Rules of a union by `type`: `union(VLLM="vllm", Endpoint="endpoint")`.

    The member named by `type` must be there, unless it ends in `?`, and the other types' members must not.
    """
    rules = []
    for kind, member in members.items():
        if member is None:
            continue
        field, optional = member.removesuffix("?"), member.endswith("?")

        def other(s: Mapping[str, Any], kind: str = kind, field: str = field) -> bool:
            return s["type"] == kind or field not in s

        rules.append(
            rule(
                f"self.type == '{kind}' || !has(self.{field})",
                f"{field} is only for type {kind}",
                at=field,
                check=other,
            )
        )
        if not optional:

            def same(s: Mapping[str, Any], kind: str = kind, field: str = field) -> bool:
                return s["type"] != kind or field in s

            rules.append(
                rule(f"self.type != '{kind}' || has(self.{field})", f"type {kind} needs {field}", check=same, at=field)
            )
    return rules


def immutable(*fields: str, why: str, unless: str = "") -> list[dict[str, str]]:
    """Rules that refuse a change of these fields, their coming and their going; `unless` is a CEL way out."""
    return [
        {
            "rule": (f"{unless} || " if unless else "")
            + f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})",
            "message": f"{field} is immutable: {why}",
            "fieldPath": f".{field}",
        }
        for field in fields
    ]
