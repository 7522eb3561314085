"""Orders and traces to bytes and back: msgpack under zstd, one byte of version before it.

Token ids and log-probabilities are most of a trace, so they travel as packed little-endian arrays (int32, float64)
instead of one msgpack object each; everything else is the model's own JSON form. `decode(encode(x)) == x`, exactly.
"""

from __future__ import annotations

import sys
from array import array
from typing import Any

import msgpack
import zstandard

from toolorchestra.rollout.order import Order
from toolorchestra.rollout.trace import Sample, Segment, Trace

VERSION = 1
_LEVEL = 3
_MAX_BYTES = 1 << 28
"""A payload that unpacks to more is refused: nothing that a worker writes comes near."""


class CodecError(ValueError):
    """Bytes that are no payload of a known version."""


def _pack(body: Any) -> bytes:
    # A surrogate half can reach us in an expert's text; it must not kill the record of what was paid.
    packed = msgpack.packb(body, use_bin_type=True, unicode_errors="surrogatepass")
    return bytes([VERSION]) + zstandard.ZstdCompressor(level=_LEVEL).compress(packed)


def _unpack(data: bytes) -> Any:
    if not data or data[0] != VERSION:
        raise CodecError(f"payload of version {data[0] if data else 'none'}; this release reads {VERSION}")
    try:
        packed = zstandard.ZstdDecompressor().decompress(data[1:], max_output_size=_MAX_BYTES)
        return msgpack.unpackb(packed, raw=False, unicode_errors="surrogatepass", strict_map_key=False)
    except (zstandard.ZstdError, ValueError, msgpack.UnpackException) as error:
        raise CodecError(f"damaged payload: {error}") from error


def _to_bytes(values: array[Any]) -> bytes:
    if sys.byteorder == "big":
        values.byteswap()
    return values.tobytes()


def _from_bytes(typecode: str, data: bytes) -> tuple[Any, ...]:
    values = array(typecode)
    values.frombytes(data)
    if sys.byteorder == "big":
        values.byteswap()
    return tuple(values)


def _pack_segment(segment: Segment) -> list[Any]:
    ids, logprobs = array("i", segment.token_ids), array("d", segment.logprobs)
    return [_to_bytes(ids), segment.trained, _to_bytes(logprobs), segment.version]


def _unpack_segment(fields: list[Any]) -> Segment:
    ids, trained, logprobs, version = fields
    return Segment(
        token_ids=_from_bytes("i", ids), trained=trained, logprobs=_from_bytes("d", logprobs), version=version
    )


def encode_trace(trace: Trace) -> bytes:
    """Bytes of a trace."""
    samples = [[sample.well_formed, [_pack_segment(s) for s in sample.segments]] for sample in trace.samples]
    return _pack([trace.model_dump(mode="json", exclude={"samples"}), samples])


def decode_trace(data: bytes) -> Trace:
    """A trace from its bytes; CodecError or pydantic's ValidationError (a ValueError, both) where they are none."""
    body, samples = _unpack(data)
    body["samples"] = tuple(
        Sample(segments=tuple(_unpack_segment(s) for s in segments), well_formed=well_formed)
        for well_formed, segments in samples
    )
    return Trace.model_validate(body)


def encode_order(order: Order) -> bytes:
    """Bytes of an order."""
    return _pack(order.model_dump(mode="json"))


def decode_order(data: bytes) -> Order:
    """An order from its bytes; CodecError or pydantic's ValidationError where they are none."""
    return Order.model_validate(_unpack(data))
