"""The few fields of a training's spec that decide how it ends. Pure.

They are read from the raw object, one by one: whatever else of a spec is refused (it may have been stored under another
release's schema), what runs can be suspended, timed, ended and cleaned up. A field that cannot be read counts as
absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

from pydantic import TypeAdapter, ValidationError

from toolorchestra.api.cluster import Storage
from toolorchestra.api.training import OrchestratorTrainingSpec
from toolorchestra_operator.kubernetes.manifest import Manifest, part
from toolorchestra_operator.trainings.names import TrainingNames

_FIELDS: Final = (
    *("suspend", "start_deadline_seconds", "active_deadline_seconds", "backoff_limit", "keep_failed_seconds"),
    *("ttl_seconds_after_finished", "queue_name", "storage"),
)


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The fields, as in `spec`."""

    suspend: bool
    start_deadline_seconds: int
    active_deadline_seconds: int | None
    backoff_limit: int
    keep_failed_seconds: int
    ttl_seconds_after_finished: int
    queue_name: str | None
    storage: Storage

    @classmethod
    def of(cls, parent: Manifest) -> Terms:
        spec: Mapping[str, Any] = parent["spec"]
        return cls(**{name: _read(spec, name) for name in _FIELDS})


def nats_url_of(parent: Manifest) -> str | None:
    """Return the NATS URL that the spec names for its streams."""
    return _text(part(parent.get("spec"), "messaging"), "url")


def of_deleted(parent: Manifest) -> dict[str, Any]:
    """Return a deleted training, reduced to what its end needs: no other content, of whatever release or author, may
    keep its finalizer and its namespace for ever.
    """
    url, status = nats_url_of(parent), parent.get("status")
    attempt, provider = part(parent, "status").get("attempt"), _text(part(status, "ray"), "provider")
    kept: dict[str, Any] = {"attempt": attempt} if type(attempt) is int and attempt > 0 else {}
    if provider in ("KubeRay", "Builtin"):
        kept["ray"] = {"provider": provider}
    return {**parent, "spec": {"messaging": {"url": url}} if url else {}, "status": kept}


def _text(value: Mapping[str, Any], name: str) -> str | None:
    found = value.get(name)
    return found if isinstance(found, str) else None


def claim_of(storage: Storage, names: TrainingNames) -> str:
    """Return the name of a training's storage claim."""
    return storage.existing_claim.claim_name if storage.existing_claim else names.storage


def folder_of(storage: Storage, names: TrainingNames) -> str:
    """Return the training's folder in storage, by UID, because trainings may share a volume."""
    existing = storage.existing_claim
    above = f"{existing.path.strip('/')}/" if existing and existing.path else ""
    return f"{above}{names.name}-{names.short_uid}"


def _adapter(name: str) -> tuple[str, TypeAdapter[Any], Any]:
    """Return the name of a field in YAML, its type with its bounds, and its default."""
    field = OrchestratorTrainingSpec.model_fields[name]
    bounded: Any = Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
    return field.alias or name, TypeAdapter(bounded), field.get_default(call_default_factory=True)


_ADAPTERS: Final = {name: _adapter(name) for name in _FIELDS}


def _read(spec: Mapping[str, Any], name: str) -> Any:
    key, adapter, default = _ADAPTERS[name]
    if key not in spec:
        return default
    try:
        return adapter.validate_python(spec[key])
    except ValidationError:
        return default
