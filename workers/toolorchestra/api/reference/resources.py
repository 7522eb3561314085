"""The docs' pages that are made from the models: every field, every condition and reason, what may change."""

from __future__ import annotations

import json
from collections.abc import Iterator

from toolorchestra.api.base import API_VERSION
from toolorchestra.api.crd import FACTS
from toolorchestra.api.kinds import CUSTOM_RESOURCES, LOCAL_KINDS
from toolorchestra.api.reference.changes import changes_page
from toolorchestra.api.reference.conditions import conditions_page
from toolorchestra.api.reference.page import GENERATED, escaped
from toolorchestra.api.resource import Resource
from toolorchestra.api.rules import VALIDATIONS
from toolorchestra.api.schema import Schema, structural_schema

RESOURCES_INTRO = f"""# Resources, field by field

{GENERATED}
Everything is `apiVersion: {API_VERSION}`. Two kinds are custom resources; three more are files that stay on
one machine. `kubectl apply -f x.yaml` and `orchestra train -f x.yaml` read the same YAML, with the same defaults and
the same checks.

- Scalars are those of YAML 1.2's core schema. What readers of YAML take for different things is refused with its line:
  `on`, `off`, `yes` and `no`, `1:30`, `0777`, `0o17`, `1_000`; write them plainly or in quotes. So are keys that are
  there twice, tags, numbers that JSON does not have, files of more than 2 MiB, more than 64 levels, and aliases that
  stand for more than 200,000 values. A date is text.
- Money, ratios and rates are decimal strings (`"0.25"`), never numbers, without exponent. Durations are integers with
  the unit in the name.
- Absent means unset. A field with a default need not be given, nor its parent.
- Unknown keys are refused: by `orchestra` always, with a suggestion; by `kubectl` with its strict validation, the
  default (a client that switches it off sees unknown keys pruned).
- A union says which member holds in `type`; the members of other types must be absent.
- What may change later is in [immutability.md](immutability.md), what a status says in [conditions.md](conditions.md).
  Full examples of every kind are in `examples/`.
"""


def reference_files() -> dict[str, str]:
    """File name → Markdown of the generated pages."""
    return {"resources.md": _resources(), "conditions.md": conditions_page(), "immutability.md": changes_page()}


def _resources() -> str:
    parts = [RESOURCES_INTRO]
    for kind in (*CUSTOM_RESOURCES, *LOCAL_KINDS):
        schema = structural_schema(kind)
        parts.append(_kind(kind, schema))
    return "\n".join(parts)


def _kind(kind: type[Resource], schema: Schema) -> str:
    facts = FACTS.get(kind)
    lines = [f"## {kind.__name__}" + (f" (`{facts.short}`)" if facts else ""), "", schema["description"]]
    if facts is None:
        lines[-1] += " Not a custom resource: a file for one machine."
    lines += ["", *_fields("spec", schema["properties"]["spec"])]
    if "status" in schema["properties"]:
        lines += ["", "The operator writes the status:", "", *_fields("status", schema["properties"]["status"])]
    rules = list(_rules(schema))
    if rules:
        lines += ["", "Rules over several fields:", "", *(f"- `{where}`: {message}" for where, message in rules)]
    return "\n".join(lines) + "\n"


def _fields(path: str, schema: Schema) -> list[str]:
    return ["| field | type | default | |", "| --- | --- | --- | --- |", *_rows(path, schema)]


def _rows(path: str, schema: Schema) -> Iterator[str]:
    required = set(schema.get("required", ()))
    for name, sub in schema.get("properties", {}).items():
        here = f"{path}.{name}"
        default = "**required**" if name in required else _default(sub)
        yield f"| `{here}` | {_type(sub)} | {default} | {escaped(sub.get('description', ''))} |"
        if "properties" in sub:
            yield from _rows(here, sub)
        if "properties" in sub.get("items", {}):
            yield from _rows(here + "[]", sub["items"])


def _default(schema: Schema) -> str:
    if "default" not in schema or schema["default"] in ({}, []):
        return ""
    return f"`{json.dumps(schema['default'], ensure_ascii=False)}`"


def _type(schema: Schema) -> str:
    if "enum" in schema:
        return " \\| ".join(f"`{value}`" for value in schema["enum"] if len(schema["enum"]) < 12) or "a word"
    if schema.get("x-kubernetes-int-or-string"):
        return "quantity"
    if schema.get("x-kubernetes-preserve-unknown-fields"):
        return "object"
    match schema.get("type"):
        case "array":
            inner = _type(schema["items"])
            most = f", at most {schema['maxItems']}" if "maxItems" in schema else ""
            return f"list of {inner}{most}"
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            return f"map of {_type(schema['additionalProperties'])}"
        case "integer":
            low, high = schema.get("minimum"), schema.get("maximum")
            return "integer" + (f" ≥ {low}" if low is not None else "") + _maximum(high)
        case "string" if schema.get("pattern", "").startswith(("^[0-9]", "^(0", "^-?[0-9]")):
            return "decimal string"
        case other:
            return str(other)


def _maximum(high: int | None) -> str:
    """An upper bound that a person could meet; the others only keep numbers in their types."""
    return f", ≤ {high}" if high is not None and high <= 10_000 else ""


def _rules(schema: Schema, path: str = "") -> Iterator[tuple[str, str]]:
    """(path, message) of every rule but those on the object's past."""
    for declared in schema.get(VALIDATIONS, ()):
        if "oldSelf" not in declared["rule"]:
            yield (path + declared.get("fieldPath", "")).lstrip("."), declared["message"]
    for name, sub in schema.get("properties", {}).items():
        yield from _rules(sub, f"{path}.{name}")
    if "items" in schema:
        yield from _rules(schema["items"], path + "[]")
