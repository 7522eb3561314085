"""What the operator creates for a resource, without a cluster: runs the reconcilers on a namespace in memory.

Invariants
- Every decision is made by the reconcilers: plans are carried out on the namespace until they bring nothing new. This
  module does not know what a kind or a Ray provider creates.
- The output contains no secrets: random values are replaced by a placeholder text.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final

from toolorchestra.api.conditions import Reason
from toolorchestra.api.pool import ExpertPool
from toolorchestra.bus.streams import StreamNames
from toolorchestra.contract.labels import FINALIZER
from toolorchestra_operator.kubernetes.manifest import Manifest, Ref
from toolorchestra_operator.kubernetes.openapi import UNTYPED, Schema, Schemas
from toolorchestra_operator.planning.conditions import condition, merged
from toolorchestra_operator.planning.plan import Apply, Create, Delete, MakeStreams, Plan, SetFinalizer
from toolorchestra_operator.pools.observed import Observed as PoolObserved
from toolorchestra_operator.pools.reconcile import reconcile as reconcile_pool
from toolorchestra_operator.runtime.runtimes import pool_runtime_of, runtime_of
from toolorchestra_operator.runtime.settings import Settings
from toolorchestra_operator.trainings.observed import Messaging
from toolorchestra_operator.trainings.observed import Observed as TrainingObserved
from toolorchestra_operator.trainings.reconcile import reconcile as reconcile_training

STAND_IN_UID: Final = "00000000-0000-4000-8000-000000000000"
"""UID of every resource that is not yet in a cluster."""
HIDDEN: Final = "<random: made by the operator, once>"
_NOW: Final = datetime(2000, 1, 1, tzinfo=UTC)
_TOKEN: Final = "stand-in"
_ROUNDS: Final = 32
"""Most rounds of reconciling; more than any kind needs. A reconciler that does not settle has a bug."""


@dataclass(frozen=True)
class Rendered:
    """The result for one resource. `objects` are in the order of creation; `refused`: why there are none."""

    parent: Manifest
    objects: tuple[Manifest, ...] = ()
    streams: tuple[str, ...] = ()
    """Names of streams and buckets on NATS, which are not Kubernetes objects."""
    refused: str = ""


class _Unknown(Schemas):
    """An untyped schema for every kind: here, wanted objects are not compared with live ones."""

    def schema(self, api_version: str, kind: str) -> Schema:
        return UNTYPED


@dataclass
class _Namespace:
    """One namespace in memory: `parent`, with the objects that its plans made."""

    parent: dict[str, Any]
    objects: dict[Ref, dict[str, Any]] = field(default_factory=dict[Ref, dict[str, Any]])
    streams: tuple[str, ...] = ()

    def carry_out(self, plan: Plan) -> bool:
        """Apply the plan; return whether it changed anything. Applying an object again is no change: the defaults are
        unknown here."""
        before = (frozenset(self.objects), self.streams, copy.deepcopy(self.parent))
        for action in plan.actions:
            match action:
                case Apply(manifest) | Create(manifest):
                    self._store(manifest)
                case Delete(ref, _):
                    self.objects.pop(ref, None)
                case MakeStreams(_, uid):
                    self.streams = tuple(_stream_names(uid))
                case SetFinalizer(present):
                    self.parent["metadata"]["finalizers"] = [FINALIZER] if present else []
                case _:
                    pass
        if plan.status is not None:
            self.parent["status"] = copy.deepcopy(dict(plan.status))
        return before != (frozenset(self.objects), self.streams, self.parent)

    def _store(self, manifest: Manifest) -> None:
        stored = copy.deepcopy(dict(manifest))
        stored["metadata"] |= {"uid": STAND_IN_UID, "creationTimestamp": _NOW.isoformat()}
        self.objects[Ref.of(manifest)] = stored

    def rendered(self) -> Rendered:
        conditions = (self.parent.get("status") or {}).get("conditions") or ()
        accepted: Manifest = next((one for one in conditions if one["type"] == "Accepted"), {})
        if accepted.get("status") == "False":
            return Rendered(self.parent, refused=f"{accepted['reason']}: {accepted.get('message', '')}")
        return Rendered(self.parent, tuple(_shown(one) for one in self.objects.values()), self.streams)


def render(
    pools: Sequence[Manifest], trainings: Sequence[Manifest], *, settings: Settings, kuberay: bool = False
) -> Iterator[Rendered]:
    """Yield what each resource becomes, pools first, then trainings; all in one namespace, which their metadata name.

    `settings` are the operator's (`nats_url` too); `kuberay`: whether RayJobs are served. Everything that a resource
    refers to (Secrets, claims) counts as existing.
    """
    served = []
    for document in pools:
        world = _Namespace(_stored(document))
        _settle(world, partial(_of_pool, world, settings))
        served.append(_ready(world.parent))
        yield world.rendered()
    for document in trainings:
        world = _Namespace(_stored(document))
        world.parent["spec"]["suspend"] = False  # a suspended training has almost no objects to show
        _settle(world, partial(_of_training, world, tuple(served), settings, kuberay))
        yield world.rendered()


def _of_pool(world: _Namespace, settings: Settings) -> Plan:
    observed = PoolObserved(
        parent=copy.deepcopy(world.parent),
        runtime=pool_runtime_of(settings),
        schemas=_Unknown({}),
        objects=copy.deepcopy(world.objects),
        token=_TOKEN,
    )
    return reconcile_pool(observed, _NOW)


def _of_training(world: _Namespace, pools: tuple[ExpertPool, ...], settings: Settings, kuberay: bool) -> Plan:
    observed = TrainingObserved(
        parent=copy.deepcopy(world.parent),
        runtime=runtime_of(settings),
        schemas=_Unknown({}),
        objects=copy.deepcopy(world.objects),
        pools=pools,
        messaging=Messaging(ready=bool(world.streams)),
        kuberay=kuberay,
        token=_TOKEN,
    )
    return reconcile_training(observed, _NOW)


def _settle(world: _Namespace, plan: Callable[[], Plan]) -> None:
    for _ in range(_ROUNDS):
        if not world.carry_out(plan()):
            return
    raise RuntimeError(f"{Ref.of(world.parent)}: the reconciler does not settle: {plan()}")


def _ready(parent: Manifest) -> ExpertPool:
    """Return the pool as it is once its model is loaded, which trainings wait for."""
    ready = copy.deepcopy(dict(parent))
    status = ready.setdefault("status", {})
    said = condition("Ready", "True", Reason.READY)
    status["conditions"] = merged(status.get("conditions") or (), [said], now=_NOW, generation=1)
    return ExpertPool.model_validate(ready)


def _stored(document: Manifest) -> dict[str, Any]:
    """Return the document as the API server would store it, except defaults, which the models fill in."""
    stored = copy.deepcopy(dict(document))
    stored["metadata"] |= {"uid": STAND_IN_UID, "generation": 1}
    stored.pop("status", None)
    return stored


def _stream_names(uid: str) -> Iterator[str]:
    names = StreamNames(uid)
    yield from (names.tasks, names.results, names.dead, names.advisories, names.state, names.payloads)


def _shown(stored: Manifest) -> dict[str, Any]:
    """Return the object as it is sent, without what the server adds; a Secret's values are placeholders."""
    shown = copy.deepcopy(dict(stored))
    for name in ("uid", "creationTimestamp"):
        del shown["metadata"][name]
    if shown["kind"] == "Secret":
        keys = {**(shown.pop("data", None) or {}), **(shown.get("stringData") or {})}
        shown["stringData"] = dict.fromkeys(keys, HIDDEN)
    return shown
