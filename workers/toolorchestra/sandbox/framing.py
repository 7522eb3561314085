"""Messages between worker and child: a length, the job's own number, then JSON.

The number is drawn for each job and comes back with its result, so that a child cannot answer a job before it has it.
"""

from __future__ import annotations

import json
import socket
import struct
from typing import Any

from toolorchestra.sandbox.errors import SandboxError

NUMBER_BYTES = 8
READ_BYTES = 64 * 1024
_HEADER = struct.Struct(f">I{NUMBER_BYTES}s")
_ENCODER = json.JSONEncoder(allow_nan=False)
"""Made once: `json.dumps` makes one for every call that asks for anything but its defaults."""


class TooLong(SandboxError):
    """A message longer than its reader takes."""


def encode(value: Any) -> bytes:
    """A message's body, ASCII. TypeError, ValueError, RecursionError where the value is no JSON."""
    return _ENCODER.encode(value).encode("ascii")


def parse(body: bytes) -> Any:
    """The value in a body. ValueError, RecursionError where there is none."""
    return json.loads(str(body, "ascii"))


def address(body: bytes, number: bytes) -> bytes:
    """The whole message."""
    return _HEADER.pack(len(body), number) + body


def split(received: bytearray, *, at_most: int) -> tuple[bytes, bytes] | None:
    """Take the first message's number and body off what was received; None: it is not there as a whole. TooLong."""
    if len(received) < _HEADER.size:
        return None
    length, number = _HEADER.unpack_from(received)
    if length > at_most:
        raise TooLong(f"{length} bytes long, more than {at_most}")
    whole = _HEADER.size + length
    if len(received) < whole:
        return None
    body = bytes(received[_HEADER.size : whole])
    del received[:whole]
    return number, body


class Inbox:
    """The child's end: messages one by one, though several may come together."""

    def __init__(self, connection: socket.socket, *, at_most: int) -> None:
        self._connection = connection
        self._at_most = at_most
        self._received = bytearray()

    def next(self) -> tuple[bytes, bytes]:
        """The next message's number and body, waited for. EOFError: nobody is there. TooLong."""
        while (message := split(self._received, at_most=self._at_most)) is None:
            part = self._connection.recv(READ_BYTES)
            if not part:
                raise EOFError
            self._received += part
        return message
