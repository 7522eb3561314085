"""What goes wrong between the command line and a cluster, each with what to do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

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


class Refused(ClusterError):
    """The API server does not accept what was sent."""

    status = 2


class Conflicting(ClusterError):
    """Somebody else owns what is to be changed, or changed it meanwhile."""


def failure(code: int, answer: Mapping[str, Any] | str, *, verb: str, resource: str, namespace: str) -> ClusterError:
    """The error of an answer that is no success. `resource`: plural with its group, and its name where there is one."""
    where = f" in namespace {namespace}" if namespace else ""
    about = f"{verb} {resource}{where}"
    known = isinstance(answer, Mapping)
    message = str(answer.get("message") or "") if isinstance(answer, Mapping) else str(answer).strip()
    match code:
        case 401:
            return NotAuthorised(f"cannot {about}: the API server does not know you; log in again ({message})")
        case 403:
            remedy = f"ask for a Role that allows verb {verb} on resource {resource.partition(' ')[0]}{where}"
            return NotAuthorised(f"not allowed to {about}: {message}; {remedy}")
        case 404 if not known:
            served = f"the cluster does not serve {resource.partition(' ')[0]}"
            ours = resource.partition(" ")[0].endswith("toolorchestra.dev")
            return NotServed(f"{served}: {SCHEMA_REMEDY}" if ours else served)
        case 404:
            return NotFound(message or f"cannot {about}: not found")
        case 409:
            return Conflicting(f"cannot {about}: {message}")
        case 400 | 413 | 415 | 422:
            return Refused(f"cannot {about}: {message}")
        case 500 if message.startswith(("failed to create typed patch object", "failed to convert new object")):
            return Refused(f"cannot {about}: {message}")
    return Unreachable(f"cannot {about}: {message or 'no reason given'} (HTTP {code}); try again in a moment")
