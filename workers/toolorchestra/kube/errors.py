"""What the API server refuses, by what can be done about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final


class ApiError(Exception):
    """A request that failed. `resource`: what it was about, in words; `message`: the server's."""

    transient: ClassVar[bool] = False
    """Whether the same request may work a little later, without a change by anybody."""

    def __init__(
        self, message: str, *, verb: str, resource: str, code: int = 0, retry_after: float | None = None
    ) -> None:
        super().__init__(f"cannot {verb} {resource}: {message}")
        self.message, self.verb, self.resource, self.code = message, verb, resource, code
        self.retry_after = retry_after
        """Seconds, where the server named them."""


class NotFound(ApiError):
    """What should hold the object is not there: its namespace."""


class NotServed(ApiError):
    """The server does not have the kind: its CRD is not installed, or not in this version."""


class Conflict(ApiError):
    """The object is another than was thought (version, UID): look again, and decide again."""

    transient = True


class AlreadyExists(Conflict):
    """There is an object of this name."""


class Forbidden(ApiError):
    """Role-based access control, an admission plug-in or a quota says no; or the credentials do not (401)."""


class Invalid(ApiError):
    """The server does not accept what was sent. `field`: the first field that it names, or ""."""

    def __init__(self, message: str, *, field: str = "", **about: Any) -> None:
        super().__init__(message, **about)
        self.field = field


class Throttled(ApiError):
    """Too many requests."""

    transient = True


class Unavailable(ApiError):
    """No answer, or an answer that says that there is none: down, restarting, overloaded."""

    transient = True


class Terminating(ApiError):
    """The namespace is being deleted: nothing new can be made in it."""


class Expired(ApiError):
    """A list's next page, or a watch's version, is too old: start again."""

    transient = True


_CANNOT_READ: Final = ("failed to create typed patch object", "failed to convert new object")
"""How server-side apply says, with a 500, that what was sent has the wrong types or an item twice: for good."""


def failure(
    code: int, answer: Mapping[str, Any] | str, *, verb: str, resource: str, retry_after: float | None = None
) -> ApiError:
    """The error of an answer that is no success. `answer`: its Status object, or its text."""
    status: Mapping[str, Any] = answer if isinstance(answer, Mapping) else {}
    message = str(status.get("message") or (answer if isinstance(answer, str) else "") or f"HTTP {code}").strip()
    about: dict[str, Any] = {"verb": verb, "resource": resource, "code": code, "retry_after": retry_after}
    causes = (status.get("details") or {}).get("causes") or []
    field = next((cause["field"] for cause in causes if cause.get("field")), "")
    match code:
        case 404 if not status:
            return NotServed(f"{message} (the API server does not have this kind)", **about)
        case 404:
            return NotFound(message, **about)
        case 409 if status.get("reason") == "AlreadyExists":
            return AlreadyExists(message, **about)
        case 409:
            return Conflict(message, **about)
        case 403 if any(cause.get("reason") == "NamespaceTerminating" for cause in causes):
            return Terminating(message, **about)
        case 401 | 403:
            return Forbidden(message, **about)
        case 422 if field == "metadata.uid":
            return Conflict(message, **about)  # how the server says that an apply names another object's UID
        case 400 | 413 | 415 | 422:
            return Invalid(message, field=field, **about)
        case 500 if message.startswith(_CANNOT_READ):
            return Invalid(message, field=field, **about)
        case 410:
            return Expired(message, **about)
        case 429:
            return Throttled(message, **about)
    return Unavailable(message, **about) if code >= 500 else ApiError(message, **about)
