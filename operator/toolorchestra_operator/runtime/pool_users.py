"""Which trainings a change of a pool is news for, so that they are looked at when it comes and not at the resync.

Invariants: it only knows what the watches brought, and only wakes: a look that is missing is made up for by the resync,
one too many changes nothing. What says nothing to a training (how many replicas, what was measured) wakes nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from toolorchestra_operator.kubernetes.manifest import Key
from toolorchestra_operator.runtime.parents import key_of

Body = Mapping[str, Any]


@dataclass
class PoolUsers:
    """For one event loop. Holds a few words for each training that is not finished, and for each pool."""

    _experts: dict[Key, frozenset[str] | None] = field(default_factory=dict[Key, frozenset[str] | None])
    """The pools that a training was admitted with; None: it was not yet, so that any of its namespace may matter."""
    _said: dict[Key, Any] = field(default_factory=dict[Key, Any])
    """What a pool said last of what trainings are told."""

    def saw(self, body: Body, *, gone: bool) -> tuple[Key, ...]:
        """The trainings to look at because of this event of a parent's (`gone`: it was its last)."""
        key = key_of(body)
        if key is None:
            return ()
        if key.kind == "OrchestratorTraining":
            self._note(key, body, gone=gone)
            return ()
        said = None if gone else _said(body)
        if said == self._said.get(key):
            return ()
        if said is None:
            del self._said[key]
        else:
            self._said[key] = said
        return tuple(sorted(user for user, experts in self._experts.items() if _uses(user, experts, key)))

    def _note(self, key: Key, body: Body, *, gone: bool) -> None:
        status = body.get("status") or {}
        ended = any(one["status"] == "True" and one["type"] in ("Complete", "Failed") for one in _conditions(body))
        if gone or ended:
            self._experts.pop(key, None)
            return
        names = frozenset(str(one["name"]) for one in status.get("experts") or ())
        self._experts[key] = names or None


def _uses(training: Key, experts: frozenset[str] | None, pool: Key) -> bool:
    return training.namespace == pool.namespace and (experts is None or pool.name in experts)


def _said(pool: Body) -> Any:
    """What makes it an expert, and whether it is one that answers."""
    metadata, status = pool["metadata"], pool.get("status") or {}
    ready = next((one["status"] for one in _conditions(pool) if one["type"] == "Ready"), None)
    labels = tuple(sorted((metadata.get("labels") or {}).items()))
    going = metadata.get("deletionTimestamp")
    return (
        metadata["uid"],
        metadata.get("generation"),
        labels,
        going,
        status.get("url"),
        status.get("servedModel"),
        ready,
    )


def _conditions(body: Body) -> tuple[Mapping[str, Any], ...]:
    return tuple((body.get("status") or {}).get("conditions") or ())
