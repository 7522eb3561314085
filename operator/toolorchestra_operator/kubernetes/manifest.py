"""Kubernetes objects as JSON, and references to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Manifest = Mapping[str, Any]
"""One object, live or wanted, as the API server's JSON."""


ParentKind = Literal["OrchestratorTraining", "ExpertPool"]


@dataclass(frozen=True, order=True)
class Ref:
    """A reference to one object: `apps/v1`, `Deployment`, namespace, name. `namespace` is "" for a cluster-scoped
    one."""

    api_version: str
    kind: str
    namespace: str
    name: str

    @classmethod
    def of(cls, manifest: Manifest) -> Ref:
        """Return the reference to a manifest's object."""
        metadata = manifest["metadata"]
        return cls(manifest["apiVersion"], manifest["kind"], metadata.get("namespace", ""), metadata["name"])

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, order=True)
class Key:
    """A parent's kind, namespace and name: an entry of the queue, and the subject of one reconcile."""

    kind: ParentKind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


def part(value: Any, name: str) -> Mapping[str, Any]:
    """Return the object under `name` in any JSON value; empty if there is none."""
    found = value.get(name) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}
