"""The envelope: the versioned format of every bus message. Its body is opaque bytes.

Invariants: `decode(*encode(e)) == e`; an envelope of another version is refused; nothing of a body or of a task id is
copied into a header or a subject.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import quote, unquote

from toolorchestra.bus.errors import BusError
from toolorchestra.telemetry.propagation import TRACE_HEADERS

ENVELOPE_VERSION = 1

VERSION_HEADER = "To-Envelope"
ID_HEADER = "To-Id"
PURPOSE_HEADER = "To-Purpose"
CONTENT_HEADER = "To-Content"
REASON_HEADER = "To-Reason"

UNREADABLE = "unreadable"

_ID = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_PURPOSE = re.compile(r"[A-Za-z0-9_-]+")
_MAX_ID = 200
_MAX_REASON = 1000


class EnvelopeError(BusError, ValueError):
    """A message that is not an envelope of this version."""


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """One message. EnvelopeError: id or purpose cannot be part of a subject.

    `id` is the dispatch: the message id of a task and of its result. `content` names the type and schema of the body
    (such as `order/1`); the bus does not use it. `reason` is for people and for the journal. `headers` has only W3C
    trace context; when sending, the bus adds the current context if there is none.
    """

    id: str
    body: bytes = b""
    purpose: str = "train"
    content: str = ""
    reason: str = ""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        if len(self.id) > _MAX_ID or not _ID.fullmatch(self.id):
            raise EnvelopeError(
                f"message id {self.id!r}: want dot-separated letters, digits, _ and -, at most {_MAX_ID}"
            )
        if not _PURPOSE.fullmatch(self.purpose):
            raise EnvelopeError(f"purpose {self.purpose!r}: want letters, digits, _ and -")
        if unknown := set(self.headers) - set(TRACE_HEADERS):
            raise EnvelopeError(f"headers {sorted(unknown)}: only {', '.join(TRACE_HEADERS)} travel beside the body")


def without_body(envelope: Envelope, *, reason: str) -> Envelope:
    """Return a message of the bus itself about a task: with the task's id, purpose and trace, and the reason."""
    return replace(envelope, body=b"", content="", reason=reason)


def unreadable(id_: str, *, purpose: str = "train", reason: str, body: bytes = b"") -> Envelope | None:
    """Return an envelope that reports a message in another format; None: the message has no valid id.

    The content of its body is `unreadable`, which no reader tries to read.
    """
    try:
        return Envelope(id=id_, purpose=purpose, body=body, content=UNREADABLE if body else "", reason=reason)
    except EnvelopeError:
        return None


def encode(envelope: Envelope) -> tuple[dict[str, str], bytes]:
    """Return the headers (ASCII) and the payload of a transport message."""
    headers = {
        VERSION_HEADER: str(ENVELOPE_VERSION),
        ID_HEADER: envelope.id,
        PURPOSE_HEADER: envelope.purpose,
        CONTENT_HEADER: quote(envelope.content, safe="/+;= "),
        REASON_HEADER: quote(envelope.reason[:_MAX_REASON], safe="/:;,='()<> ", errors="replace"),
    }
    return {**{k: v for k, v in headers.items() if v}, **envelope.headers}, envelope.body


def decode(headers: Mapping[str, str] | None, body: bytes) -> Envelope:
    """Return the envelope that `encode` wrote. EnvelopeError: anything else."""
    given = headers or {}
    version = given.get(VERSION_HEADER)
    if version != str(ENVELOPE_VERSION):
        raise EnvelopeError(f"envelope version {version!r}: this side reads {ENVELOPE_VERSION}")
    return Envelope(
        id=given.get(ID_HEADER, ""),
        body=body,
        purpose=given.get(PURPOSE_HEADER, ""),
        content=unquote(given.get(CONTENT_HEADER, "")),
        reason=unquote(given.get(REASON_HEADER, "")),
        headers={name: given[name] for name in TRACE_HEADERS if name in given},
    )
