"""Which trainings use a pool, so that a change of the pool triggers their reconcile before the next resync.

Invariants: it knows only what the watches reported, and it only triggers reconciles: the resync makes up for a missing
one, and an unnecessary one changes nothing. Changes that do not concern trainings (the number of replicas,
measurements) trigger nothing.
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
    """The users of each pool, for one event loop. Stores a few fields per unfinished training and per pool."""

    _experts: dict[Key, frozenset[str] | None] = field(default_factory=dict[Key, frozenset[str] | None])
    """By training, the pools that it was admitted with; None: not admitted yet, so that any pool of its namespace may
    matter."""
    _said: dict[Key, Any] = field(default_factory=dict[Key, Any])
    """By pool, the last values of the fields that trainings read."""

    def saw(self, body: Body, *, gone: bool) -> tuple[Key, ...]:
        """Return the trainings to reconcile after this event of a parent (`gone`: the parent was deleted)."""
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
    """Return the fields of a pool that trainings read: what makes it an expert, and whether it answers."""
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
