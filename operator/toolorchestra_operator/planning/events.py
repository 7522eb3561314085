"""Kubernetes events about our resources, posted on transitions. News, not state: losing one changes nothing."""

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
    """What it needs of `ApiServer`, which has it."""

    async def create(self, manifest: Manifest) -> dict[str, Any]: ...


@dataclass
class Events:
    """Posts through the API server. One and the same event is not repeated within ten minutes: a plan that fails
    half-way is carried out again, from its beginning; nor by an operator that was started meanwhile, because its name
    says what it tells of (`event`)."""

    api: Creates
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    clock: Callable[[], float] = time.monotonic
    instance: str = field(default_factory=socket.gethostname)
    _posted: OrderedDict[tuple[str, Emit], float] = field(default_factory=OrderedDict[tuple[str, Emit], float])

    async def post(self, emit: Emit, *, about: Manifest) -> None:
        """Post one event on `about`, a live object; that it cannot be posted is only logged."""
        key, at = (about["metadata"]["uid"], emit), self.clock()
        if at - self._posted.get(key, float("-inf")) < _SAME_SECONDS:
            return
        try:
            await self.api.create(event(emit, about=about, now=self.now(), instance=self.instance))
        except AlreadyExists:
            pass  # by the operator before this one, or by one that is about to end
        except ApiError as error:
            _log.warning("an event was not posted (%s: %s): %s", emit.reason, emit.message, error)
            return
        self._posted[key] = at
        self._posted.move_to_end(key)
        while len(self._posted) > _REMEMBERED:
            self._posted.popitem(last=False)


def event(emit: Emit, *, about: Manifest, now: datetime, instance: str) -> Manifest:
    """The events.k8s.io/v1 Event. `now` is in UTC. Cluster-scoped objects have their events in `default`.

    Its name is made from the object, its condition of before, and what that became: operators that overlap see other
    messages and other conditions for a moment, and tell of one transition once.
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
    """What the condition was that `became` (`Running=True`) is about."""
    kind = became.partition("=")[0]
    for one in (about.get("status") or {}).get("conditions") or ():
        if one["type"] == kind:
            return [one.get(field) for field in ("status", "reason", "lastTransitionTime")]
    return None
