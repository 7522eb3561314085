"""Generates pages of the docs from the models: every field, every condition and reason, what may change."""

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
Every resource has `apiVersion: {API_VERSION}`. Two kinds are custom resources; the other three are local files
only. `kubectl apply -f x.yaml` and `orchestra train -f x.yaml` read the same YAML, with the same defaults and
the same checks.

- Scalars follow the core schema of YAML 1.2. Scalars that YAML readers interpret differently are refused, with their
  line: `on`, `off`, `yes` and `no`, `1:30`, `0777`, `0o17`, `1_000`; write them plainly or in quotes. Also refused are
  repeated keys, tags, numbers that JSON does not have, files of more than 2 MiB, more than 64 levels, and aliases that
  expand to more than 200,000 values. A date is text.
- Money, ratios and rates are decimal strings (`"0.25"`) without exponent, never numbers. Durations are integers, with
  the unit in the name.
- Absent means unset. A field with a default is optional, and so is its parent.
- Unknown keys are refused. `orchestra` always does so, with a suggestion. `kubectl` does so with its strict validation,
  which is the default; without it, the API server removes unknown keys.
- In a union, `type` says which member counts; the members of other types must be absent.
- [immutability.md](immutability.md) says what may change later, [conditions.md](conditions.md) what a status means.
  `examples/` has full examples of every kind.
"""


def reference_files() -> dict[str, str]:
    """Return file name → Markdown of the generated pages."""
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
        lines[-1] += " A local file, not a custom resource."
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
    """Return an upper bound that matters to people. Larger bounds only keep numbers in their types."""
    return f", ≤ {high}" if high is not None and high <= 10_000 else ""


def _rules(schema: Schema, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield (path, message) of every rule except those over `oldSelf`."""
    for declared in schema.get(VALIDATIONS, ()):
        if "oldSelf" not in declared["rule"]:
            yield (path + declared.get("fieldPath", "")).lstrip("."), declared["message"]
    for name, sub in schema.get("properties", {}).items():
        yield from _rules(sub, f"{path}.{name}")
    if "items" in schema:
        yield from _rules(schema["items"], path + "[]")
