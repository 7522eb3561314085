"""The Kubernetes API as the operator uses it: JSON over the official client's connection; failures by type.

Invariants
- A missing object is None, False or an empty list; what the server refuses is an error of `kube.errors`. Nothing is
  retried here, and every request ends within `timeout` seconds.
- Paths come from a table; only kinds outside it are discovered. Schemas are fetched once, and again when their hash
  changes.
- Writes are strict (unknown fields are refused; the second attempt to write a status ignores them) and carry the field
  manager's name.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self
from urllib.parse import urlsplit

from kubernetes.aio.client import Configuration
from kubernetes.aio.config import load_incluster_config, load_kube_config

from toolorchestra.api.core_yaml import json_in_yaml
from toolorchestra.contract.labels import FINALIZER, MANAGER
from toolorchestra.kube.errors import Conflict, Invalid, NotFound, NotServed
from toolorchestra.kube.kinds import KINDS, MADE, Kind, group_path
from toolorchestra_operator.kubernetes.canonical import normal
from toolorchestra_operator.kubernetes.manifest import Manifest, Ref
from toolorchestra_operator.kubernetes.older_crds import reworded
from toolorchestra_operator.kubernetes.openapi import Schemas
from toolorchestra_operator.kubernetes.transport import Count, Json, Transport, named, uncounted

_log = logging.getLogger(__name__)


Objects = list[Json]

_APPLY: Final = "application/apply-patch+yaml; charset=utf-8"
"""With the character set, the client sends a text unchanged, which this text needs: see `json_in_yaml`."""
_MERGE: Final = "application/merge-patch+json"
_JSON_PATCH: Final = "application/json-patch+json"
_FRESH: Final = 60.0
"""Seconds for which the served kinds and the hashes of the schemas are not requested again."""
_FINALIZER_TRIES: Final = 5
_OPENAPI: Final = Ref("v1", "OpenAPI", "", "v3")


class ApiServer:
    """One API server, as one user. Close it, or use it as a context manager."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        timeout: float = 15.0,
        user_agent: str = "toolorchestra-operator",
        count: Count = uncounted,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._transport = Transport(configuration, timeout=timeout, user_agent=user_agent, count=count)
        self.cluster = _identity(configuration)
        """Identifies this cluster; "" if it shows no certificate authority of its own."""
        url = urlsplit(configuration.host)
        self.address = (url.hostname or "", url.port or (80 if url.scheme == "http" else 443))
        """Host and port."""
        self._clock = clock
        self._discovered: dict[str, tuple[float, dict[str, Kind]]] = {}
        self._schemas: tuple[float, Mapping[str, str], Schemas] | None = None
        self._fetching = asyncio.Lock()

    @classmethod
    async def connect(cls, kubeconfig: Path | None = None, **options: Any) -> Self:
        """Connect as the user of `kubeconfig`; None: as the pod's service account, outside a cluster by $KUBECONFIG."""
        configuration = Configuration()
        if kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            await load_kube_config(  # type: ignore[no-untyped-call]
                config_file=None if kubeconfig is None else str(kubeconfig),
                client_configuration=configuration,
                persist_config=False,
            )
        return cls(configuration, **options)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    async def get(self, ref: Ref) -> Json | None:
        """Return the object; None: it does not exist (or its kind is not served)."""
        try:
            return await self._transport.request("get", "GET", await self._path(ref), about=ref)
        except (NotFound, NotServed):
            return None

    async def list(
        self, api_version: str, kind: str, *, namespace: str = "", labels: str = "", fields: str = "", chunk: int = 500
    ) -> Objects:
        """Return all objects that the selectors (`a=b,c`) match, `chunk` per request; `namespace` "": of all
        namespaces.

        Expired: the list took so long that its version no longer exists.
        """
        about = Ref(api_version, kind, namespace, "*")
        query = {"labelSelector": labels, "fieldSelector": fields, "limit": str(chunk)}
        found: Objects = []
        try:
            path = await self._path(about, collection=True)
            while True:
                page = await self._transport.request("list", "GET", path, about=about, **query)
                # The items of a list have no apiVersion and kind.
                found += [{"apiVersion": api_version, "kind": kind, **item} for item in page["items"]]
                query["continue"] = page["metadata"].get("continue", "")
                if not query["continue"]:
                    return found
        except (NotFound, NotServed):
            return []

    async def apply(self, manifest: Manifest, *, force: bool = True, dry_run: bool = False) -> Json:
        """Apply on the server side; return the result. With `metadata.uid`: only to that object, else Conflict."""
        ref = Ref.of(manifest)
        query = {"fieldManager": MANAGER, "force": str(force).lower(), "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        path = await self._path(ref)
        return await self._transport.request(
            "apply", "PATCH", path, about=ref, body=json_in_yaml(normal(manifest)), content=_APPLY, **query
        )

    async def create(self, manifest: Manifest) -> Json:
        """Create the object and return it. AlreadyExists: there is one of this name."""
        ref = Ref.of(manifest)
        path = await self._path(ref, collection=True)
        query = {"fieldManager": MANAGER, "fieldValidation": "Strict"}
        return await self._transport.request("create", "POST", path, about=ref, body=normal(manifest), **query)

    async def delete(
        self, ref: Ref, *, uid: str, propagation: Literal["Background", "Foreground", "Orphan"] = "Background"
    ) -> bool:
        """Delete the object that has this UID. False: it is gone; another object may have its name."""
        options = {"preconditions": {"uid": uid}, "propagationPolicy": propagation}
        try:
            await self._transport.request("delete", "DELETE", await self._path(ref), about=ref, body=options)
        except (NotFound, NotServed):
            return False
        except Conflict:
            if await self._is(ref, uid):
                raise
            return False
        return True

    async def patch_status(self, ref: Ref, status: Manifest, *, uid: str = "", version: str = "") -> Json | None:
        """Make `status` the complete status of the object; None: the object (with `uid`: that object) is gone. If the
        CRD is older, write the part that it accepts.

        It is a JSON patch in one request: `add` replaces the old status. An apply would keep what another manager
        added, and a merge patch needs a null for each field to remove; only a JSON patch can `test` the UID and the
        version.

        Raises:
            Conflict: with `version`, its resourceVersion is another.
        """
        try:
            return await self._put_status(ref, status, uid=uid, version=version, strict=True)
        except Invalid as error:
            live = await self.get(ref)
            if live is None or (uid and live["metadata"]["uid"] != uid):
                return None
            if version and live["metadata"]["resourceVersion"] != version:
                raise Conflict("it has changed", verb="patch", resource=named(ref)) from error
            answer = await self._put_status(ref, reworded(status), uid=uid, version=version, strict=False)
            _log.warning("the status of %s was changed to what its older CRD accepts: %s", ref, error)
            return answer

    async def _put_status(self, ref: Ref, status: Manifest, *, uid: str, version: str, strict: bool) -> Json | None:
        expected = {"uid": uid, "resourceVersion": version}
        test = [{"op": "test", "path": f"/metadata/{key}", "value": value} for key, value in expected.items() if value]
        body = [*test, {"op": "add", "path": "/status", "value": normal(status)}]
        path = await self._path(ref, part="status")
        query = {"fieldManager": MANAGER, "fieldValidation": "Strict" if strict else "Ignore"}
        try:
            return await self._transport.request(
                "patch", "PATCH", path, about=ref, body=body, content=_JSON_PATCH, **query
            )
        except NotFound:
            return None

    async def set_finalizer(self, ref: Ref, present: bool, *, name: str = FINALIZER, uid: str = "") -> Json | None:
        """Add or remove a finalizer; return the object after it. None: the object (with `uid`: that object) is gone.

        Other finalizers are kept: the write names the version that was read, and is repeated if that changed.
        """
        for left in reversed(range(_FINALIZER_TRIES)):
            live = await self.get(ref)
            if live is None or (uid and live["metadata"]["uid"] != uid):
                return None
            there = live["metadata"].get("finalizers", [])
            if (name in there) == present:
                return live
            wanted = [*there, name] if present else [other for other in there if other != name]
            body = {"metadata": {"resourceVersion": live["metadata"]["resourceVersion"], "finalizers": wanted}}
            path, query = await self._path(ref), {"fieldManager": MANAGER}
            try:
                return await self._transport.request(
                    "patch", "PATCH", path, about=ref, body=body, content=_MERGE, **query
                )
            except NotFound:
                return None
            except Conflict:
                if not left:
                    raise
        raise AssertionError("the last attempt returns or raises")

    async def served(self, api_version: str, kind: str) -> bool:
        """Return whether the server has the kind; it is asked at most once a minute."""
        return kind in await self._group(api_version)

    async def openapi(self) -> Schemas:
        """Return the schemas of the kinds that the operator creates, if they are served."""
        async with self._fetching:
            now = self._clock()
            if self._schemas and now - self._schemas[0] < _FRESH:
                return self._schemas[2]
            index = await self._transport.request("get", "GET", "/openapi/v3", about=_OPENAPI)
            wanted = dict.fromkeys(kind.group_path[1:] for kind in MADE)
            urls = {group: index["paths"][group]["serverRelativeURL"] for group in wanted if group in index["paths"]}
            schemas = self._schemas[2] if self._schemas and self._schemas[1] == urls else None
            if schemas is None:
                documents = [await self._transport.request("get", "GET", url, about=_OPENAPI) for url in urls.values()]
                schemas = await asyncio.to_thread(Schemas.of, documents, kinds=[kind.key for kind in MADE])
            self._schemas = (now, urls, schemas)
            return schemas

    async def _is(self, ref: Ref, uid: str) -> bool:
        live = await self.get(ref)
        return live is not None and live["metadata"]["uid"] == uid

    async def _path(self, ref: Ref, *, collection: bool = False, part: str = "") -> str:
        kind = KINDS.get((ref.api_version, ref.kind)) or (await self._group(ref.api_version)).get(ref.kind)
        if kind is None:
            raise NotServed("the API server does not have this kind", verb="find", resource=named(ref), code=404)
        name = "" if collection else ref.name
        return kind.path(namespace=ref.namespace, name=name, part=part)

    async def _group(self, api_version: str) -> Mapping[str, Kind]:
        """Return the kinds of a group's version, by discovery."""
        asked, kinds = self._discovered.get(api_version, (float("-inf"), {}))
        if self._clock() - asked < _FRESH:
            return kinds
        about = Ref("v1", "APIResourceList", "", api_version)
        try:
            found = await self._transport.request("get", "GET", group_path(api_version), about=about)
            kinds = {
                one["kind"]: Kind(api_version, one["kind"], one["name"], namespaced=one["namespaced"])
                for one in found["resources"]
                if "/" not in one["name"]
            }
        except (NotFound, NotServed):
            kinds = {}
        self._discovered[api_version] = (self._clock(), kinds)
        return kinds


def _identity(configuration: Configuration) -> str:
    """Return a digest of the certificate authority that signs for the API server, and of the server's address. Both are
    needed: inside of clusters the address is always the same, and the authority may be a public one."""
    authority = getattr(configuration, "ssl_ca_cert", None)
    if not authority:
        return ""
    return hashlib.sha256(Path(authority).read_bytes() + configuration.host.encode()).hexdigest()[:16]
