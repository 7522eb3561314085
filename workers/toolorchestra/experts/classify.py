"""Classifies one HTTP exchange with an expert: served, refused or failed; maybe paid or not; worth a retry or not.

Pure. Nothing that a server sends makes it raise.

Certainly not paid, because the request did not reach the model: no connection, 429, 503, 529, and the statuses of a
gateway that could not reach its server (521, 523, 525, 526). Every other failure may have been billed: a connection
that closed after the request was sent, 408 and 5xx of a gateway that gave up waiting, an incomplete reply.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

from toolorchestra.experts.complaint import Complaint, Meaning, complaint_of, read_complaint, shown
from toolorchestra.experts.completion import error_in, finish_of, refusal_in, served_in
from toolorchestra.experts.errors import Reason
from toolorchestra.experts.lenient_json import loads
from toolorchestra.experts.verdict import Failed, Refused, Served, Verdict

LONGEST_PAUSE_SECONDS = 3600.0
"""Longest pause that is respected, if an endpoint asks for more."""

_NOT_SERVED = frozenset({409, 425, 503, 521, 523, 525, 526, 529})
"""Busy or never reached. 409 and 425 are rejected before processing; the others mean that no server answered."""
_GAVE_UP = frozenset({408, 424, 499})
"""Statuses below 500 of gateways that forwarded the request and then gave up waiting."""
_CONFIGURATION = frozenset({401, 402, 403, 404, 405, 406, 407, 410, 411, 414, 415, 421, 426, 428, 431, 451})
_REQUEST_ERRORS = frozenset({400, 413, 422})
"""Providers send these for almost every error, so the text of the body decides."""


def classify_reply(*, status: int, retry_after: str | None, body: bytes, now: datetime) -> Verdict:
    """Classify a reply. `retry_after` is the header's text; `now` converts a date in it. Never raises."""
    if status == 200:
        return _classify_completion(body)
    if status < 300 or status >= 600:
        return Failed(Reason.GARBAGE, f"HTTP {status}, which is no answer of a chat endpoint", maybe_paid=True)
    return _classify_error(status, read_complaint(body), wait=parse_retry_after(retry_after, now=now))


def classify_exception(error: Exception) -> Failed:
    """Classify an exchange that raised an error before the reply's headers were read."""
    detail = shown(str(error)) or type(error).__name__
    match error:
        case aiohttp.InvalidURL() | aiohttp.NonHttpUrlClientError():
            return Failed(Reason.MISCONFIGURED, detail)
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ServerFingerprintMismatch():
            return Failed(Reason.MISCONFIGURED, detail)
        case aiohttp.ConnectionTimeoutError() | aiohttp.ClientConnectorError():  # TCP, DNS and TLS: nothing was sent
            return Failed(Reason.CONNECTION, detail, retry=True)
        case TimeoutError():
            return Failed(Reason.TIMEOUT, "no reply in time", maybe_paid=True)
        case aiohttp.ClientOSError() | aiohttp.ServerDisconnectedError() | ConnectionError():
            return Failed(Reason.CONNECTION, f"dropped before it answered: {detail}", retry=True, maybe_paid=True)
        case _:
            return Failed(Reason.GARBAGE, detail, maybe_paid=True)


def classify_broken(error: Exception, *, status: int, retry_after: str | None, now: datetime) -> Failed:
    """Classify a reply whose headers arrived but whose body did not.

    An error status is enough without a body, except for a bad request: its cause is then unknown.
    """
    detail = f"HTTP {status}, cut off: {shown(repr(error))}"
    if status >= 300:
        verdict = classify_reply(status=status, retry_after=retry_after, body=b"", now=now)
        return verdict if isinstance(verdict, Failed) else Failed(Reason.GARBAGE, detail, retry=True)
    if isinstance(error, TimeoutError):
        return Failed(Reason.TIMEOUT, detail, maybe_paid=True)
    passes = isinstance(error, aiohttp.ClientError | OSError)  # a reply that is too large would be too large again
    return Failed(Reason.GARBAGE, detail, retry=passes, maybe_paid=True)


def parse_retry_after(header: str | None, *, now: datetime) -> float | None:
    """Return the seconds to wait from a `Retry-After` header (RFC 9110: seconds or a date), at most an hour.

    None if the header is missing or unreadable.
    """
    if header is None:
        return None
    text = header.strip()
    if text.replace(".", "", 1).isdecimal() and text.isascii():
        return min(float(text), LONGEST_PAUSE_SECONDS)
    try:
        at = parsedate_to_datetime(text)
        wait = (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds()
    except (TypeError, ValueError, OverflowError, IndexError):
        return None
    return min(max(0.0, wait), LONGEST_PAUSE_SECONDS)


def _classify_error(status: int, complaint: Complaint, *, wait: float | None = None) -> Refused | Failed:
    detail, meaning = f"HTTP {status}: {complaint.message}", complaint.meaning
    if status == 429 and not complaint.no_credit:
        return Failed(Reason.THROTTLED, detail, retry=True, retry_after=wait)
    if status in _NOT_SERVED:
        return Failed(Reason.SERVER_ERROR, detail, retry=True, retry_after=wait)
    if status in _REQUEST_ERRORS or (status == 403 and meaning is Meaning.CONTENT):
        return _classify_request(status, complaint)
    if status in _CONFIGURATION or status == 429 or status < 400:
        return Failed(Reason.MISCONFIGURED, detail)
    if status in (501, 505):
        return Failed(Reason.SERVER_ERROR, detail)
    reason = Reason.TIMEOUT if status in (408, 504, 524) else Reason.SERVER_ERROR
    again = status >= 500 or status in _GAVE_UP
    return Failed(reason, detail, retry=again, retry_after=wait, maybe_paid=True)


def _classify_request(status: int, complaint: Complaint) -> Refused | Failed:
    match complaint.meaning:
        case Meaning.CONFIGURATION:
            return Failed(Reason.MISCONFIGURED, f"HTTP {status}: {complaint.message}")
        case Meaning.CONTENT:
            return Refused(Reason.CONTENT_FILTER, complaint.message)
        case Meaning.UNCLEAR if status != 413:
            return Refused(Reason.BAD_REQUEST, complaint.message)
        case _:
            return Refused(Reason.INPUT_TOO_LONG, complaint.message)


def _classify_completion(body: bytes) -> Verdict:
    try:
        fields = loads(body)
    except ValueError:
        return _garbage(body)
    served, error = served_in(fields), error_in(fields)
    if error is not None:
        return _classify_error_within(error, served=served)
    if served is None:
        return _garbage(body)
    match finish_of(served.finish_reason):
        case "broken":
            detail = f"the generation broke off (finish reason {shown(served.finish_reason)})"
            return Failed(Reason.SERVER_ERROR, detail, retry=True, maybe_paid=True, served=served)
        case "filtered":
            return Refused(Reason.CONTENT_FILTER, "stopped by the content filter", served)
        case "done":
            pass
    if refusal := refusal_in(fields):
        return Refused(Reason.DECLINED, shown(refusal), served)
    if not served.text.strip() and not served.tool_calls:
        detail = f"an empty completion, finish reason {shown(served.finish_reason)}"
        return Refused(Reason.EMPTY, detail, served)
    return served


def _classify_error_within(error: Any, *, served: Served | None) -> Refused | Failed:
    """Classify an error inside a reply of status 200: a gateway had already begun to answer. It may have been paid."""
    complaint = complaint_of(error)
    verdict = _classify_error(complaint.status or 502, complaint)
    if isinstance(verdict, Failed) and verdict.reason is not Reason.MISCONFIGURED:
        return replace(verdict, maybe_paid=True, served=served)
    return replace(verdict, served=served)


def _garbage(body: bytes) -> Failed:
    what = "an empty body" if not body.strip() else f"no chat completion: {body[:80]!r}"
    return Failed(Reason.GARBAGE, f"HTTP 200 with {what}", maybe_paid=True)
