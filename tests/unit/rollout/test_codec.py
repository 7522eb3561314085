"""Bytes and back, exactly; what is no payload says so."""

from __future__ import annotations

import tracemalloc
from decimal import Decimal
from typing import Any

import msgpack
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from support.episode_world import VIEW, answer, host_of, order_of, play
from toolorchestra.rollout.codec import (
    VERSION,
    CodecError,
    decode_order,
    decode_trace,
    encode_order,
    encode_trace,
)
from toolorchestra.rollout.trace import Call, Components, Ending, Meter, Sample, Sampling, Segment, Trace, Turn

TEXT = st.text(max_size=20)
MONEY = st.decimals(min_value=0, max_value=10**6, allow_nan=False, allow_infinity=False)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SEGMENTS = st.builds(
    lambda tokens, trained, version: Segment(
        token_ids=tuple(i for i, _ in tokens),
        trained=trained,
        logprobs=tuple(p for _, p in tokens) if trained else (),
        version=version,
    ),
    st.lists(st.tuples(st.integers(0, 2**31 - 1), FLOATS), max_size=30),
    st.booleans(),
    st.none() | st.just("3-17"),
)
METERS = st.builds(Meter, tokens_in=st.integers(0, 10**9), nominal_usd=MONEY, actual_usd=MONEY, service_seconds=FLOATS)
CALLS = st.builds(
    Call,
    tool=TEXT,
    name=TEXT,
    alias=st.none() | TEXT,
    arguments=st.dictionaries(TEXT, st.none() | TEXT | st.integers(-(2**63), 2**63) | FLOATS | st.lists(TEXT)),
    status=st.sampled_from(["ok", "refused", "rejected", "unavailable", "cancelled"]),
    observation=TEXT,
    meter=METERS,
)
TRACES = st.builds(
    Trace,
    issue=st.just("u.1.2.3.4"),
    task_id=TEXT,
    source=TEXT,
    topic=TEXT,
    purpose=TEXT,
    view=st.just(VIEW),
    sampling=st.builds(Sampling, temperature=FLOATS, seed=st.integers(0, 2**31)),
    samples=st.lists(
        st.builds(Sample, segments=st.lists(SEGMENTS, max_size=3).map(tuple), well_formed=st.booleans()), max_size=3
    ).map(tuple),
    turns=st.lists(
        st.builds(
            Turn, text=TEXT, rejection=st.none() | TEXT, calls=st.lists(CALLS, max_size=2).map(tuple), meter=METERS
        ),
        max_size=2,
    ).map(tuple),
    ending=st.sampled_from(Ending),
    detail=TEXT,
    answer=st.none() | TEXT,
    components=st.builds(
        Components,
        outcome=st.none() | FLOATS,
        cost_usd=MONEY,
        actual_usd=MONEY,
        service_seconds=FLOATS,
        wall_seconds=FLOATS,
        calls=st.dictionaries(TEXT, st.integers(0, 50)),
    ),
)


@settings(deadline=None)
@given(TRACES)
def test_a_trace_survives_exactly(trace: Trace) -> None:
    assert decode_trace(encode_trace(trace)) == trace


async def test_a_played_trace_survives_and_is_small() -> None:
    trace = await play(order_of(), host_of(["no", answer("oak")]))
    data = encode_trace(trace)
    assert decode_trace(data) == trace
    assert len(data) < 4096


def test_an_order_survives_exactly() -> None:
    order = order_of(allowance_usd=Decimal("0.10"), version="0-1")
    again = decode_order(encode_order(order))
    assert again == order
    assert str(again.allowance_usd) == "0.10"


@given(st.binary(max_size=200))
def test_no_payload_is_an_error_of_ours(data: bytes) -> None:
    with pytest.raises(CodecError):
        decode_trace(data)
    with pytest.raises(CodecError):
        decode_trace(packed(data))


def test_another_version_and_damage_are_named() -> None:
    data = encode_order(order_of())
    with pytest.raises(CodecError, match="version 9"):
        decode_order(b"\x09" + data[1:])
    with pytest.raises(CodecError, match="damaged"):
        decode_order(data[:-7])


def packed(data: bytes) -> bytes:
    """These bytes where a payload has its msgpack."""
    return bytes([VERSION]) + zstandard.ZstdCompressor().compress(data)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**31), 2**31)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(JSON, JSON, st.booleans())
def test_whatever_stands_in_a_payload_is_a_trace_or_an_error_of_ours(body: Any, samples: Any, pair: bool) -> None:
    content = msgpack.packb([body, samples] if pair else body, use_bin_type=True)
    for decode in (decode_trace, decode_order):
        with pytest.raises(CodecError):
            decode(packed(content))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (packed(b"\0" * (1 << 27)), "unpacks to 134217728 bytes"),
        (bytes([VERSION]) + zstandard.ZstdCompressor(write_content_size=False).compress(b"\0" * (1 << 27)), "damaged"),
        (packed(b"\xdd\xff\xff\xff\xff"), "damaged"),
        (packed(b"\x91" * 5000 + b"\xc0"), "damaged"),
        (packed(b"\xdd\x00\x1e\x84\x80" + b"\x92\x90\x90" * 2_000_000), "items"),
        (packed(b"\x81\x90\x01"), "damaged"),
        (packed(b"\x92\x80\x90"), "no trace of this release"),
    ],
    ids=["zstd bomb", "bomb of unknown size", "length bomb", "depth bomb", "item bomb", "a list as a key", "no fields"],
)
def test_a_bomb_is_refused_before_it_fills_the_memory(data: bytes, why: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(CodecError, match=why):
            decode_trace(data)
        assert tracemalloc.get_traced_memory()[1] < 500 << 20
    finally:
        tracemalloc.stop()


async def test_what_does_not_fit_a_trace_is_named() -> None:
    trace = await play(order_of(), host_of(["no", answer("oak")]))
    body = trace.model_dump(mode="json", exclude={"samples"})
    for change, why in (
        ({"ending": "vanished"}, "ending: Input should be"),
        ({"schema_version": 0}, "a trace of schema 0; this release reads 1"),
        ({"issue": None}, "issue: Input should be a valid string"),
        ({"new_field": 1}, "new_field: Extra inputs"),
    ):
        with pytest.raises(CodecError, match=why):
            decode_trace(packed(msgpack.packb([body | change, []])))
    with pytest.raises(CodecError, match="not a multiple of item size"):
        decode_trace(packed(msgpack.packb([body, [[True, [[b"abc", True, b"", None]]]]])))
