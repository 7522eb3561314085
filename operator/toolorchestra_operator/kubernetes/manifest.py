"""Kubernetes objects as JSON, and how they are referred to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Manifest = Mapping[str, Any]
"""One object, or what is wanted of one, as the API server's JSON."""


ParentKind = Literal["OrchestratorTraining", "ExpertPool"]


@dataclass(frozen=True, order=True)
class Ref:
    """One object: `apps/v1`, `Deployment`, namespace, name. `namespace` is "" for what has none."""

    api_version: str
    kind: str
    namespace: str
    name: str

    @classmethod
    def of(cls, manifest: Manifest) -> Ref:
        """What a manifest is about."""
        metadata = manifest["metadata"]
        return cls(manifest["apiVersion"], manifest["kind"], metadata.get("namespace", ""), metadata["name"])

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


@dataclass(frozen=True, order=True)
class Key:
    """A parent: what the queue holds, and what one reconcile is about."""

    kind: ParentKind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


def part(value: Any, name: str) -> Mapping[str, Any]:
    """The object under a name, of whatever JSON; empty where there is none."""
    found = value.get(name) if isinstance(value, Mapping) else None
    return found if isinstance(found, Mapping) else {}
