"""A namespace in memory for reconcilers: plans are carried out on it, its controllers' part is played by the test.

Objects are stored by `ApplyModel`, as an API server would; nothing runs in them. NATS is a set of stream owners.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from support.cluster.apply_model import ApplyModel
from support.cluster.openapi_excerpt import schemas
from toolorchestra.contract.labels import FINALIZER, MANAGER
from toolorchestra_operator.kubernetes.manifest import Ref
from toolorchestra_operator.planning.plan import (
    Apply,
    Create,
    Delete,
    Emit,
    MakeStreams,
    Plan,
    RemoveStreams,
    SetFinalizer,
)


@dataclass
class ClusterModel:
    """`parent` is the custom resource; `writes` counts what plans changed."""

    parent: dict[str, Any]
    now: datetime = datetime(2030, 1, 1, tzinfo=UTC)
    objects: dict[Ref, ApplyModel] = field(default_factory=dict[Ref, ApplyModel])
    streams: set[str] = field(default_factory=set[str])
    events: list[Emit] = field(default_factory=list[Emit])
    deleted: list[Ref] = field(default_factory=list[Ref])
    writes: int = 0

    def live(self) -> Mapping[Ref, Mapping[str, Any]]:
        return {ref: copy.deepcopy(model.live) for ref, model in self.objects.items() if model.live is not None}

    def passes(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)

    def carry_out(self, plan: Plan, *, first: int | None = None) -> None:
        """All of it, or an operator that is killed after its `first` actions."""
        actions = plan.actions if first is None else plan.actions[:first]
        for action in actions:
            self._do(action)
        if plan.status is not None and first is None:
            self.parent["status"] = copy.deepcopy(dict(plan.status))
            self.writes += 1

    def _do(self, action: Any) -> None:
        match action:
            case Apply(manifest):
                self._store(manifest)
            case Create(manifest):
                if Ref.of(manifest) not in self.objects:
                    self._store(manifest)
            case Delete(ref, uid):
                model = self.objects.get(ref)
                if model is not None and model.live is not None and model.live["metadata"]["uid"] == uid:
                    del self.objects[ref]
                    self.deleted.append(ref)
                    self.writes += 1
            case MakeStreams(_, uid):
                self.streams.add(uid)
                self.writes += 1
            case RemoveStreams(_, uid):
                self.streams.discard(uid)
                self.writes += 1
            case SetFinalizer(present):
                self.parent["metadata"]["finalizers"] = [FINALIZER] if present else []
                self.writes += 1
            case Emit():
                self.events.append(action)

    def _store(self, manifest: Mapping[str, Any]) -> None:
        model = self.objects.setdefault(Ref.of(manifest), ApplyModel(schemas()))
        new = model.live is None
        model.apply(manifest, manager=MANAGER)
        assert model.live is not None
        if new:
            stamp = self.now.isoformat().replace("+00:00", "Z")
            model.live["metadata"] |= {"uid": str(uuid.uuid4()), "creationTimestamp": stamp}
        self.writes += 1

    def set_status(self, ref: Ref, status: Mapping[str, Any]) -> None:
        """What a controller of Kubernetes writes."""
        live = self.objects[ref].live
        assert live is not None
        live["status"] = dict(status)
