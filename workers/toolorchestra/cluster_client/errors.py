"""Errors between the command line and a cluster; each message says what to do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from toolorchestra.kube import errors

SCHEMA_REMEDY = (
    "install the chart (docs/install.md), or only the definitions: orchestra crds --out crds && "
    "kubectl apply --server-side -f crds/"
)


class ClusterError(Exception):
    """An error that the user has to solve; its text is for the user."""

    status: ClassVar[int] = 1
    """Exit status of the command that ends with this error."""


class NoClient(ClusterError):
    """The client library is not installed."""


class NoCluster(ClusterError):
    """No cluster is configured."""


class Unreachable(ClusterError):
    """The API server does not answer, or cannot answer now."""


class NotAuthorised(ClusterError):
    """The user is not logged in or does not have the right."""


class NotServed(ClusterError):
    """The API server does not serve this kind of object."""


class NotFound(ClusterError):
    """There is no such object."""

    status = 2


class RequestRefused(ClusterError):
    """The API server rejects the object or the request."""

    status = 2


class Conflicting(ClusterError):
    """Another field manager owns the field to be changed, or the object changed in the meantime."""


def failure(code: int, answer: Mapping[str, Any] | str, *, verb: str, resource: str, namespace: str) -> ClusterError:
    """Return the error for an unsuccessful answer, with what to do.

    `code`: HTTP status. `resource`: the plural with its group, and the object's name where there is one.
    """
    where = f" in namespace {namespace}" if namespace else ""
    about, plural = f"{verb} {resource}{where}", resource.partition(" ")[0]
    message = str(answer.get("message") or "") if isinstance(answer, Mapping) else str(answer).strip()
    error = errors.failure(code, answer, verb=verb, resource=resource)
    match error:
        case errors.Forbidden() if code == 401:
            return NotAuthorised(f"cannot {about}: the API server does not know you; log in again ({message})")
        case errors.Forbidden():
            remedy = f"ask for a Role that allows verb {verb} on resource {plural}{where}"
            return NotAuthorised(f"not allowed to {about}: {message}; {remedy}")
        case errors.Terminating():
            return RequestRefused(f"cannot {about}: {message}; wait until it is gone, or use another namespace")
        case errors.NotServed():
            served = f"the cluster does not serve {plural}"
            return NotServed(f"{served}: {SCHEMA_REMEDY}" if plural.endswith("toolorchestra.dev") else served)
        case errors.NotFound():
            return NotFound(message or f"cannot {about}: not found")
        case errors.Conflict():
            return Conflicting(f"cannot {about}: {message}")
        case errors.Invalid():
            return RequestRefused(f"cannot {about}: {message}")
    return Unreachable(f"cannot {about}: {message or 'no reason given'} (HTTP {code}); try again in a moment")
