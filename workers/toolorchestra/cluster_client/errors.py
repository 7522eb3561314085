"""What goes wrong between the command line and a cluster, each with what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from toolorchestra.kube import errors

SCHEMA_REMEDY = (
    "install the chart (docs/install.md), or only the definitions: orchestra crds --out crds && "
    "kubectl apply --server-side -f crds/"
)


class ClusterError(Exception):
    """Something that a person has to do something about. The text is for them."""

    status: ClassVar[int] = 1
    """Exit status of a command that it ends."""


class NoClient(ClusterError):
    """The client library is not installed."""


class NoCluster(ClusterError):
    """Nothing says which cluster."""


class Unreachable(ClusterError):
    """The API server does not answer, or not now."""


class NotAuthorised(ClusterError):
    """Who asks may not do this."""


class NotServed(ClusterError):
    """The API server does not have the kind."""


class NotFound(ClusterError):
    """There is no such object."""

    status = 2


class RequestRefused(ClusterError):
    """The API server does not accept what was sent."""

    status = 2


class Conflicting(ClusterError):
    """Somebody else owns what is to be changed, or changed it meanwhile."""


def failure(code: int, answer: Mapping[str, Any] | str, *, verb: str, resource: str, namespace: str) -> ClusterError:
    """The error of an answer that is no success, with what to do. `resource`: plural with its group, and its name where
    there is one.
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
