"""What one HTTP exchange with an expert amounts to: served, refused, or failed; what may have been paid; what may pass
if it is tried again. Pure, and nothing that a server sends makes it raise.

Free are what certainly did not reach the model: no connection, 429, 503, 529, and what a gateway says when it could not
reach its server (521, 523, 525, 526). Everything else that went wrong may have been billed: a connection that closed
after the request was sent, 408 and 5xx of a gateway that gave up waiting, a reply that broke off.
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
"""An endpoint that asks for a longer pause is asked again after this one all the same."""

_NOT_SERVED = frozenset({409, 425, 503, 521, 523, 525, 526, 529})
"""Busy, or never reached: 409 and 425 are refused before they are worked on; the others say that no server answered."""
_GAVE_UP = frozenset({408, 424, 499})
"""Below 500, but of gateways that had sent the request on and gave up waiting for its end."""
_OURS = frozenset({401, 402, 403, 404, 405, 406, 407, 410, 411, 414, 415, 421, 426, 428, 431, 451})
_REQUESTS = frozenset({400, 413, 422})
"""What providers send for almost everything: the words of the body decide."""


def classify_reply(*, status: int, retry_after: str | None, body: bytes, now: datetime) -> Verdict:
    """Judge a reply. `retry_after` is the header; `now` resolves one that is a date. Never raises."""
    if status == 200:
        return _classify_completion(body)
    if status < 300 or status >= 600:
        return Failed(Reason.GARBAGE, f"HTTP {status}, which is no answer of a chat endpoint", maybe_paid=True)
    return _classify_error(status, read_complaint(body), wait=parse_retry_after(retry_after, now=now))


def classify_exception(error: Exception) -> Failed:
    """Judge an exchange that raised before the reply's headers were read."""
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
    """Judge a reply whose headers came and whose body did not. An error's status says enough without its words, but not
    whose affair a bad request is."""
    detail = f"HTTP {status}, cut off: {shown(repr(error))}"
    if status >= 300:
        verdict = classify_reply(status=status, retry_after=retry_after, body=b"", now=now)
        return verdict if isinstance(verdict, Failed) else Failed(Reason.GARBAGE, detail, retry=True)
    if isinstance(error, TimeoutError):
        return Failed(Reason.TIMEOUT, detail, maybe_paid=True)
    passes = isinstance(error, aiohttp.ClientError | OSError)  # one that is too large will be too large again
    return Failed(Reason.GARBAGE, detail, retry=passes, maybe_paid=True)


def parse_retry_after(header: str | None, *, now: datetime) -> float | None:
    """Seconds to wait that a `Retry-After` header asks for (RFC 9110: seconds or a date), an hour at most; None where
    unreadable."""
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
    if status in _REQUESTS or (status == 403 and meaning is Meaning.CONTENT):
        return _classify_request(status, complaint)
    if status in _OURS or status == 429 or status < 400:
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
    """An error that came with status 200, as gateways send it that had begun to answer. It may have been paid."""
    complaint = complaint_of(error)
    verdict = _classify_error(complaint.status or 502, complaint)
    if isinstance(verdict, Failed) and verdict.reason is not Reason.MISCONFIGURED:
        return replace(verdict, maybe_paid=True, served=served)
    return replace(verdict, served=served)


def _garbage(body: bytes) -> Failed:
    what = "an empty body" if not body.strip() else f"no chat completion: {body[:80]!r}"
    return Failed(Reason.GARBAGE, f"HTTP 200 with {what}", maybe_paid=True)
