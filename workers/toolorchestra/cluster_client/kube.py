"""Client of one API server for one user: JSON in, JSON out; every failure is a `ClusterError`. Synchronous, no caches.

Invariants: every request has a timeout, except a log that is followed; nothing is retried; no error text has a
credential.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from kubernetes.client import ApiClient
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError, ReadTimeoutError

from toolorchestra.api.core_yaml import json_in_yaml
from toolorchestra.cluster_client.errors import ClusterError, NotFound, NotServed, Unreachable, failure
from toolorchestra.kube.kinds import PODS, Kind

Json = dict[str, Any]
MANAGER = "orchestra"
"""Field manager of the command line's writes."""
CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
LIST_CHUNK = 500
CHUNK_BYTES = 65536
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_REVIEWS = Kind("authorization.k8s.io/v1", "SelfSubjectAccessReview", "selfsubjectaccessreviews", namespaced=False)


@dataclass(frozen=True)
class Kube:
    """Client of one API server.

    `namespace`: used by commands without `-n`. `context`: of the kubeconfig; "" with a pod's service account.
    """

    client: ApiClient
    namespace: str
    context: str = ""

    @property
    def server(self) -> str:
        """URL of the API server."""
        return str(self.client.configuration.host)

    @property
    def named(self) -> str:
        """The cluster's name in messages."""
        return f"{self.server} (context {self.context})" if self.context else f"{self.server} (of this pod's cluster)"

    # ── objects ────────────────────────────────────────────────────────────────────────────────────────────────────

    def get(self, kind: Kind, name: str, *, namespace: str = "") -> Json:
        """Return the object. NotFound: it does not exist. NotServed: the server does not have the kind."""
        return self._json("get", "GET", kind, namespace=namespace, name=name)

    def find(self, kind: Kind, name: str, *, namespace: str = "") -> Json | None:
        """Return the object; None where it does not exist or the server does not have the kind."""
        try:
            return self.get(kind, name, namespace=namespace)
        except (NotFound, NotServed):
            return None

    def list(self, kind: Kind, *, namespace: str = "", labels: str = "", fields: str = "") -> list[Json]:
        """Return all objects that match the selectors; `namespace` "" means all namespaces."""
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": str(LIST_CHUNK)}
        found: list[Json] = []
        while True:
            page = self._json("list", "GET", kind, namespace=namespace, **query)
            found += page["items"]
            query["continue"] = (page.get("metadata") or {}).get("continue") or ""
            if not query["continue"]:
                return found

    def apply(self, kind: Kind, manifest: Mapping[str, Any], *, force: bool = False, dry_run: bool = False) -> Json:
        """Apply `manifest` server-side with strict validation. Conflicting: another manager owns one of the fields."""
        metadata = manifest["metadata"]
        query = {"fieldManager": MANAGER, "fieldValidation": "Strict", "force": str(force).lower()}
        query |= {"dryRun": "All"} if dry_run else {}
        where = {"namespace": metadata.get("namespace", ""), "name": metadata["name"]}
        return self._json("patch", "PATCH", kind, body=json_in_yaml(manifest), content=_APPLY, **where, **query)

    def patch(self, kind: Kind, name: str, change: Mapping[str, Any], *, namespace: str) -> Json:
        """Apply a JSON merge patch; return the changed object."""
        query = {"fieldManager": MANAGER}
        return self._json("patch", "PATCH", kind, namespace=namespace, name=name, body=change, content=_MERGE, **query)

    def create(self, kind: Kind, manifest: Mapping[str, Any], *, namespace: str) -> Json:
        """Create the object and return it."""
        query = {"fieldManager": MANAGER, "fieldValidation": "Strict"}
        return self._json("create", "POST", kind, namespace=namespace, body=manifest, **query)

    def delete(self, kind: Kind, name: str, *, namespace: str, uid: str = "", grace_seconds: int | None = None) -> bool:
        """Request the object's deletion; return False where it does not exist. `uid`: delete only this object."""
        options: Json = {"propagationPolicy": "Background"}
        options |= {"preconditions": {"uid": uid}} if uid else {}
        options |= {"gracePeriodSeconds": grace_seconds} if grace_seconds is not None else {}
        try:
            self._json("delete", "DELETE", kind, namespace=namespace, name=name, body=options)
        except NotFound:
            return False
        return True

    def may(self, verb: str, kind: Kind, *, namespace: str = "", part: str = "", name: str = "") -> bool:
        """Return whether the user has this right; `part` is a subresource."""
        wanted = {"verb": verb, "group": kind.group, "resource": kind.plural, "subresource": part}
        spec = {"resourceAttributes": {**wanted, "namespace": namespace, "name": name}}
        answer = self._json("create", "POST", _REVIEWS, body={"spec": spec})
        return bool(answer["status"].get("allowed"))

    def serves(self, kind: Kind) -> bool:
        """Return whether the API server serves the kind."""
        try:
            found = self._answer("get", "GET", kind.group_path, about=kind, namespace="", name="")
        except (NotFound, NotServed):
            return False
        return any(one["name"] == kind.plural for one in found.get("resources") or ())

    # ── streams ────────────────────────────────────────────────────────────────────────────────────────────────────

    def log(
        self, pod: str, *, namespace: str, container: str, tail: int | None, follow: bool, previous: bool = False
    ) -> Iterator[bytes]:
        """Yield a container's log; with `follow`, until the container or the connection ends."""
        query = {"container": container, "follow": str(follow).lower(), "previous": str(previous).lower()}
        query |= {} if tail is None else {"tailLines": str(tail)}
        path = PODS.path(namespace=namespace, name=pod, part="log")
        response = self._send("GET", path, query=query, read_seconds=None if follow else READ_SECONDS)
        raw = response.response
        if not 200 <= response.status <= 299:
            name = f"{pod}/log"
            raise self._failure(response.status, raw.read(), verb="get", kind=PODS, namespace=namespace, name=name)
        try:
            yield from raw.stream(CHUNK_BYTES)
        except HTTPError as error:
            raise Unreachable(f"the connection for the log of pod {pod} broke: {_reason(error)}") from error
        finally:
            raw.close()

    # ── requests ───────────────────────────────────────────────────────────────────────────────────────────────────

    def _json(
        self,
        verb: str,
        method: str,
        kind: Kind,
        *,
        namespace: str = "",
        name: str = "",
        body: Mapping[str, Any] | str | None = None,
        content: str = "application/json",
        **query: str,
    ) -> Json:
        path = kind.path(namespace=namespace, name=name)
        return self._answer(
            verb, method, path, about=kind, namespace=namespace, name=name, body=body, content=content, query=query
        )

    def _answer(
        self,
        verb: str,
        method: str,
        path: str,
        *,
        about: Kind,
        namespace: str,
        name: str,
        body: Mapping[str, Any] | str | None = None,
        content: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Json:
        response = self._send(method, path, body=body, content=content, query=query or {})
        try:
            text: bytes = response.read() or b"{}"
        except HTTPError as error:
            raise self._unreachable(error) from error
        if not 200 <= response.status <= 299:
            raise self._failure(response.status, text, verb=verb, kind=about, namespace=namespace, name=name)
        answer: Json = json.loads(text)
        return answer

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str],
        body: Mapping[str, Any] | str | None = None,
        content: str = "application/json",
        read_seconds: float | None = READ_SECONDS,
    ) -> Any:
        prepared = self.client.param_serialize(
            method=method,
            resource_path=path,
            query_params=[(key, value) for key, value in query.items() if value != ""],
            header_params={"Accept": "application/json, */*", "Content-Type": content},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            return self.client.call_api(*prepared, _request_timeout=(CONNECT_SECONDS, read_seconds))
        except (HTTPError, ApiException, OSError) as error:  # the client raises TLS errors as ApiException
            raise self._unreachable(error) from error

    def _unreachable(self, error: Exception) -> Unreachable:
        return Unreachable(
            f"cannot reach the API server at {self.named}: {_reason(error)}; check --context, and whether "
            "kubectl cluster-info answers"
        )

    @staticmethod
    def _failure(status: int, text: bytes, *, verb: str, kind: Kind, namespace: str, name: str) -> ClusterError:
        resource = f"{kind.resource} {name}".strip()
        return failure(status, _parsed(text), verb=verb, resource=resource, namespace=namespace)


def _parsed(text: bytes) -> Json | str:
    try:
        parsed = json.loads(text)
    except ValueError:
        return text.decode(errors="replace")
    return parsed if isinstance(parsed, dict) else text.decode(errors="replace")


def _reason(error: Exception) -> str:
    """Return the text of the innermost error: urllib3 wraps the socket's error several times."""
    if isinstance(error, ReadTimeoutError):
        return "it did not answer in time"
    inner: BaseException = error
    while (cause := getattr(inner, "reason", None)) is not None and isinstance(cause, BaseException):
        inner = cause
    text = str(inner).strip()
    return text.rpartition(": ")[2] if "object at 0x" in text else text or type(inner).__name__
