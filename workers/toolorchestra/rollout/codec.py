"""Encodes orders and traces as bytes: one version byte, then msgpack compressed with zstd.

Token ids and log-probabilities are most of a trace. They are packed little-endian arrays (int32, float64), not one
msgpack object per number. Everything else is the model's JSON form. `decode(encode(x)) == x`, exactly.
"""

from __future__ import annotations

import sys
from array import array
from typing import Any

import msgpack
import zstandard
from pydantic import ValidationError

from toolorchestra.rollout.errors import RolloutError
from toolorchestra.rollout.order import Order
from toolorchestra.rollout.trace import TRACE_SCHEMA, Sample, Segment, Trace

VERSION = 1
ORDER_CONTENT = "order/1"
TRACE_CONTENT = "trace/1"
"""Content types of an envelope's body: kind and schema."""
_LEVEL = 3
_MAX_BYTES = 1 << 26
_MAX_ITEMS = 1 << 21
"""Limits for the unpacked size in bytes, and for list items and keys. A larger payload is refused before it fills the
memory; a worker's payloads are far smaller."""
_ERROR_CHARACTERS = 300
"""Longest error text, in characters."""


class CodecError(RolloutError, ValueError):
    """The bytes are no payload of a known version. The message says why."""


def check_content(content: str, *, wanted: str) -> None:
    """Raise CodecError if a body is of another kind or of another release."""
    if content != wanted:
        raise CodecError(
            f"a body of {content or 'no'} content, where this release reads {wanted}:"
            " start workers and training with the same release"
        )


def _pack(body: Any) -> bytes:
    # An expert's text can contain an unpaired surrogate. It must not prevent the record of what was paid.
    packed = msgpack.packb(body, use_bin_type=True, unicode_errors="surrogatepass")
    return bytes([VERSION]) + zstandard.ZstdCompressor(level=_LEVEL).compress(packed)


def _unpack(data: bytes) -> Any:
    if not data or data[0] != VERSION:
        raise CodecError(f"payload of version {data[0] if data else 'none'}; this release reads {VERSION}")
    items = 0

    def counted(container: Any) -> Any:
        nonlocal items
        items += len(container)
        if items > _MAX_ITEMS:
            raise CodecError(f"unpacks to more than {_MAX_ITEMS} items")
        return container

    try:
        if (size := zstandard.frame_content_size(data[1:])) > _MAX_BYTES:
            raise CodecError(f"unpacks to {size} bytes; the most is {_MAX_BYTES}")
        packed = zstandard.ZstdDecompressor().decompress(data[1:], max_output_size=_MAX_BYTES)
        return msgpack.unpackb(
            packed,
            raw=False,
            unicode_errors="surrogatepass",
            strict_map_key=False,
            list_hook=counted,
            object_hook=counted,
            max_array_len=_MAX_ITEMS,
            max_map_len=_MAX_ITEMS,
        )
    except CodecError:
        raise
    except (zstandard.ZstdError, ValueError, TypeError, msgpack.UnpackException) as error:
        raise CodecError(f"damaged payload: {_error_text(error)}") from error


def _error_text(error: Exception) -> str:
    """Return one line about the error; for pydantic, its first mistake."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"[:_ERROR_CHARACTERS]
    return f"{type(error).__name__}: {error}"[:_ERROR_CHARACTERS]


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
    """Return the bytes of a trace."""
    samples = [[sample.well_formed, [_pack_segment(s) for s in sample.segments]] for sample in trace.samples]
    return _pack([trace.model_dump(mode="json", exclude={"samples"}), samples])


def decode_trace(data: bytes) -> Trace:
    """Return the trace in these bytes. CodecError if they are no trace."""
    content = _unpack(data)
    try:
        body, samples = content
        body["samples"] = tuple(
            Sample(segments=tuple(_unpack_segment(s) for s in segments), well_formed=well_formed)
            for well_formed, segments in samples
        )
        trace = Trace.model_validate(body)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise CodecError(f"no trace of this release: {_error_text(error)}") from error
    if trace.schema_version != TRACE_SCHEMA:
        raise CodecError(f"a trace of schema {trace.schema_version}; this release reads {TRACE_SCHEMA}")
    return trace


def encode_order(order: Order) -> bytes:
    """Return the bytes of an order."""
    return _pack(order.model_dump(mode="json"))


def decode_order(data: bytes) -> Order:
    """Return the order in these bytes. CodecError if they are no order."""
    content = _unpack(data)
    try:
        return Order.model_validate(content)
    except (ValueError, TypeError) as error:
        raise CodecError(f"no order of this release: {_error_text(error)}") from error
