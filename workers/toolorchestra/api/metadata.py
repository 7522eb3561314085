"""Object metadata of Kubernetes. Fields that people write are typed; those that the server writes stay as they are."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from toolorchestra.api.base import Model
from toolorchestra.api.scalars import Int, LabelValue, Name, ObjectName


class ObjectMeta(Model):
    """Standard object metadata; the name is a DNS-1035 label of at most 40 characters."""

    name: Name
    """Name, unique among the kind in its namespace."""
    namespace: ObjectName | None = None
    """Namespace; on one machine it is ignored."""
    labels: dict[str, LabelValue] = Field(default_factory=dict)
    """Labels, for selectors."""
    annotations: dict[str, str] = Field(default_factory=dict)
    """Annotations."""
    uid: str | None = None
    resource_version: str | None = None
    generation: Int | None = None
    generate_name: str | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    deletion_grace_period_seconds: Int | None = None
    finalizers: tuple[str, ...] = ()
    owner_references: tuple[dict[str, Any], ...] = ()
    managed_fields: tuple[dict[str, Any], ...] = ()
