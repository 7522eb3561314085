"""Kubernetes events about our resources, posted on transitions. They are not state: a lost event changes nothing."""

from __future__ import annotations

import hashlib
import json
import logging
import socket
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from toolorchestra.kube.errors import AlreadyExists, ApiError
from toolorchestra_operator.kubernetes.manifest import Manifest
from toolorchestra_operator.planning.conditions import note
from toolorchestra_operator.planning.plan import Emit

_log = logging.getLogger(__name__)
_CONTROLLER: Final = "toolorchestra.dev/operator"
_REMEMBERED: Final = 1024
_SAME_SECONDS: Final = 600.0


class Creates(Protocol):
    """The part of `ApiServer` that posting needs."""

    async def create(self, manifest: Manifest) -> dict[str, Any]: ...


@dataclass
class Events:
    """Posts events through the API server. The same event is not repeated within ten minutes, although a plan that
    fails half-way is carried out again from its beginning. An operator that was started meanwhile does not repeat it
    either, because the event's name identifies its content (`event`)."""

    api: Creates
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    clock: Callable[[], float] = time.monotonic
    instance: str = field(default_factory=socket.gethostname)
    _posted: OrderedDict[tuple[str, Emit], float] = field(default_factory=OrderedDict[tuple[str, Emit], float])

    async def post(self, emit: Emit, *, about: Manifest) -> None:
        """Post one event about `about`, a live object; a failure is only logged."""
        key, at = (about["metadata"]["uid"], emit), self.clock()
        if at - self._posted.get(key, float("-inf")) < _SAME_SECONDS:
            return
        try:
            await self.api.create(event(emit, about=about, now=self.now(), instance=self.instance))
        except AlreadyExists:
            pass  # by the previous operator, or by one that is about to end
        except ApiError as error:
            _log.warning("an event was not posted (%s: %s): %s", emit.reason, emit.message, error)
            return
        self._posted[key] = at
        self._posted.move_to_end(key)
        while len(self._posted) > _REMEMBERED:
            self._posted.popitem(last=False)


def event(emit: Emit, *, about: Manifest, now: datetime, instance: str) -> Manifest:
    """Return the events.k8s.io/v1 Event. `now` is in UTC. Events of cluster-scoped objects are in `default`.

    The name is made from the object, its previous condition, and its new one. Operators that overlap may see other
    messages and other conditions for a moment, but report one transition once.
    """
    metadata: Mapping[str, Any] = about["metadata"]
    became, _, _ = emit.message.partition(":")
    told = json.dumps([metadata["uid"], _before(about, became), emit.type, emit.reason, became])
    digest = hashlib.sha256(told.encode()).hexdigest()[:16]
    namespace = metadata.get("namespace")
    regarding = {
        "apiVersion": about["apiVersion"],
        "kind": about["kind"],
        "name": metadata["name"],
        "uid": metadata["uid"],
        "resourceVersion": metadata.get("resourceVersion", ""),
        **({"namespace": namespace} if namespace else {}),
    }
    return {
        "apiVersion": "events.k8s.io/v1",
        "kind": "Event",
        "metadata": {"name": f"{metadata['name']}.{digest}", "namespace": namespace or "default"},
        "eventTime": now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "type": emit.type,
        "reason": emit.reason,
        "note": note(emit.message),
        "action": "Reconcile",
        "regarding": regarding,
        "reportingController": _CONTROLLER,
        "reportingInstance": instance[:128],
    }


def _before(about: Manifest, became: str) -> list[Any] | None:
    """Return the previous condition of the type that `became` (`Running=True`) names."""
    kind = became.partition("=")[0]
    for one in (about.get("status") or {}).get("conditions") or ():
        if one["type"] == kind:
            return [one.get(field) for field in ("status", "reason", "lastTransitionTime")]
    return None
