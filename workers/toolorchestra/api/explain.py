"""Explain validation errors of pydantic to a person: what is wrong, and what would be right."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_core import ErrorDetails

from toolorchestra.api.schema import Path, Schema

_OWN_TYPES = ("rule",)
_WANTING_TYPES = ("decimal_text", "pattern_text", "plugin_text", "quantity_text")


def node_at(schema: Schema, path: Path) -> Schema:
    """Return the schema of the value at a path; empty if the schema does not have the path."""
    node: Any = schema
    for part in path:
        if isinstance(part, int):
            node = node.get("items")
        else:
            node = node.get("properties", {}).get(part) or node.get("additionalProperties")
        if not isinstance(node, dict):
            return {}
    assert isinstance(node, dict)
    return node


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `did you mean groupSize?`, or the known words if none is similar."""
    known = list(known)
    folded = {one.lower(): one for one in known}
    near = difflib.get_close_matches(word.lower().replace("_", "").replace("-", ""), folded, n=1, cutoff=0.6)
    if near:
        return f"did you mean {folded[near[0]]}?"
    return f"known here: {', '.join(known)}" if known else "nothing is known here"


def shown(value: Any) -> str:
    """Return a short text by which a person recognises the value."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "…"


def explain(error: ErrorDetails, schema: Schema) -> str:
    """Return the message for one error of pydantic, at `error["loc"]` of data for `schema`."""
    path: Path = error["loc"]
    value, context, node = error["input"], error.get("ctx", {}), node_at(schema, path)
    match error["type"]:
        case kind if kind in _OWN_TYPES:
            return error["msg"]
        case kind if kind in _WANTING_TYPES:
            return f"want {error['msg']}"
        case "missing":
            about = node.get("description", "")
            return f"is required{_choices(node, before=': one of ') or (f': {about}' if about else '')}"
        case "extra_forbidden":
            return f"unknown field; {did_you_mean(str(path[-1]), node_at(schema, path[:-1]).get('properties', {}))}"
        case "literal_error" | "enum":
            return _wrong_choice(value, [str(one) for one in node.get("enum", [])])
        case "greater_than_equal":
            return f"want at least {context['ge']}, got {shown(value)}"
        case "less_than_equal":
            return f"want at most {context['le']}, got {shown(value)}"
        case "too_short":
            return f"want at least {context['min_length']} here, got {context['actual_length']}"
        case "too_long":
            return f"want at most {context['max_length']} here, got {context['actual_length']}"
        case "string_too_short":
            return "want some text, got an empty text"
        case "string_too_long":
            return f"want at most {context['max_length']} characters, got {len(value)}"
        case "string_pattern_mismatch":
            return f"want text of the form {context['pattern']}, got {shown(value)}"
        case _:
            return _wrong_type(value, node) or error["msg"]


def _choices(node: Schema, *, before: str) -> str:
    return before + ", ".join(str(one) for one in node["enum"]) if "enum" in node else ""


def _wrong_choice(value: Any, known: list[str]) -> str:
    if isinstance(value, bool):
        return f"want one of {', '.join(known)}; YAML reads on, off, yes and no as {shown(value)}: put it in quotes"
    if not isinstance(value, str):
        return f"want one of {', '.join(known)}, got {shown(value)}"
    near = did_you_mean(value, known)
    hint = f"; {near}" if near.startswith("did") else ""
    return f"want one of {', '.join(known)}, got {shown(value)}{hint}"


def _wrong_type(value: Any, node: Schema) -> str:
    """Return the wanted type, the given value, and the usual cause."""
    match node.get("type"):
        case "integer":
            hint = " (without quotes)" if isinstance(value, str) and value.strip().lstrip("-").isdigit() else ""
            return f"want an integer{hint}, got {shown(value)}"
        case "boolean":
            hint = " (without quotes)" if isinstance(value, str) and value.lower() in ("true", "false") else ""
            return f"want true or false{hint}, got {shown(value)}"
        case "string":
            hint = " (in quotes)" if isinstance(value, int | float) else ""
            return f"want text{hint}, got {shown(value)}"
        case "array":
            return f"want a list (- …), got {shown(value)}"
        case "object":
            keys = ", ".join(node.get("properties", {}))
            return f"want a mapping{f' with {keys}' if keys else ''}, got {shown(value)}"
        case _:
            return ""
