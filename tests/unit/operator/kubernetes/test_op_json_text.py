"""JSON that is deeper than Python reads."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from toolorchestra_operator.kubernetes.json_text import MOST_DEPTH, decoded, shallow
from toolorchestra_operator.trainings.nats_look import _object

DEEP = 5000


def nested(depth: int, kind: str, inner: str = "1") -> str:
    opening, closing = ('{"a\\"[{":', "}") if kind == "object" else ("[", "]")
    return opening * depth + inner + closing * depth


def depth_of(value: Any) -> int:
    depth = 0
    while isinstance(value, dict | list):
        depth += 1
        value = next(iter(value.values() if isinstance(value, dict) else value), None)
    return depth


@pytest.mark.parametrize("kind", ["object", "array"])
def test_what_is_too_deep_is_null_and_the_rest_is_as_it_was(kind: str) -> None:
    text = f'{{"before": "]}}", "deep": {nested(DEEP, kind)}, "after": {nested(MOST_DEPTH - 1, kind)}}}'
    with pytest.raises(RecursionError):
        json.loads(text)
    for found in (decoded(text), decoded(text.encode())):
        assert list(found) == ["before", "deep", "after"]
        assert found["before"] == "]}"
        assert depth_of(found["deep"]) == depth_of(found["after"]) == MOST_DEPTH - 1


def test_no_json_is_no_json() -> None:
    with pytest.raises(ValueError, match="Expecting"):
        decoded(b"<html>")


@given(st.recursive(st.text() | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_what_is_not_too_deep_stays(value: Any) -> None:
    many = json.dumps([value] * (MOST_DEPTH + 1)).encode()
    assert shallow(many) == many


def test_what_a_controller_tells_too_deep_tells_nothing() -> None:
    assert _object(f'{{"step": {nested(DEEP, "array")}}}'.encode()) == {}
