"""Bytes and back, exactly; what is no payload says so."""

from __future__ import annotations

from decimal import Decimal

import pytest
from episode_world import VIEW, answer, host_of, order_of, play
from hypothesis import given, settings
from hypothesis import strategies as st

from toolorchestra.rollout.codec import CodecError, decode_order, decode_trace, encode_order, encode_trace
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
    with pytest.raises(ValueError):  # noqa: PT011 (CodecError and pydantic's ValidationError are both ValueErrors)
        decode_trace(data)


def test_another_version_and_damage_are_named() -> None:
    data = encode_order(order_of())
    with pytest.raises(CodecError, match="version 9"):
        decode_order(b"\x09" + data[1:])
    with pytest.raises(CodecError, match="damaged"):
        decode_order(data[:-7])
