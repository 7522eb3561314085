"""Errors of the Kubernetes API, classified by what can be done about them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final


class ApiError(Exception):
    """A failed request. `resource`: the object of the request, in words; `message`: the server's message."""

    transient: ClassVar[bool] = False
    """Whether the same request may succeed later without a change."""

    def __init__(
        self, message: str, *, verb: str, resource: str, code: int = 0, retry_after: float | None = None
    ) -> None:
        super().__init__(f"cannot {verb} {resource}: {message}")
        self.message, self.verb, self.resource, self.code = message, verb, resource, code
        self.retry_after = retry_after
        """Seconds to wait before a retry, if the server named them."""


class NotFound(ApiError):
    """The object, or the namespace that should hold it, does not exist."""


class NotServed(ApiError):
    """The server does not serve the kind: its CRD is not installed, or does not have this version."""


class Conflict(ApiError):
    """The object differs from what the caller expected (version, UID): read it again, and decide again."""

    transient = True


class AlreadyExists(Conflict):
    """An object of this name exists."""


class Forbidden(ApiError):
    """Role-based access control, an admission plug-in or a quota refuses; or the credentials are not valid (401)."""


class Invalid(ApiError):
    """The server does not accept the object. `field`: the first field that it names, or ""."""

    def __init__(self, message: str, *, field: str = "", **about: Any) -> None:
        super().__init__(message, **about)
        self.field = field


class Throttled(ApiError):
    """Too many requests."""

    transient = True


class Unavailable(ApiError):
    """No answer, or a server error: the server is down, restarting or overloaded."""

    transient = True


class Terminating(ApiError):
    """The namespace is being deleted: nothing new can be made in it."""


class Expired(ApiError):
    """The next page of a list, or the version of a watch, has expired: start again."""

    transient = True


_CANNOT_READ: Final = ("failed to create typed patch object", "failed to convert new object")
"""Beginnings of the 500 errors of server-side apply for wrong types or repeated items. Such errors are permanent."""


def failure(
    code: int, answer: Mapping[str, Any] | str, *, verb: str, resource: str, retry_after: float | None = None
) -> ApiError:
    """Return the error for a failed request. `answer`: the server's Status object, or the text of its answer."""
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
            return Conflict(message, **about)  # the server's error for an apply with another object's UID
        case 400 | 413 | 415 | 422:
            return Invalid(message, field=field, **about)
        case 500 if message.startswith(_CANNOT_READ):
            return Invalid(message, field=field, **about)
        case 410:
            return Expired(message, **about)
        case 429:
            return Throttled(message, **about)
    return Unavailable(message, **about) if code >= 500 else ApiError(message, **about)
