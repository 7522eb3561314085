"""What one reconcile of a training sees. Frozen facts; the observer fills them in, a test writes them down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from toolorchestra.api.pool import ExpertPool
from toolorchestra_operator.kubernetes.manifest import Manifest, Ref
from toolorchestra_operator.kubernetes.openapi import Schemas
from toolorchestra_operator.planning.needs import Missing
from toolorchestra_operator.trainings.runtime import Runtime


@dataclass(frozen=True)
class Messaging:
    """The training's streams on NATS. `ready`: all of them are there; `partial`: some of them are; `error`: why nobody
    can tell; `pending`: that nobody can tell yet. `leases`: tasks that all workers together may hold; None: nobody
    looked. `progress`: what the controller told last; empty where it told nothing."""

    ready: bool = False
    partial: bool = False
    error: str = ""
    pending: str = ""
    leases: int | None = None
    progress: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def answered(self) -> bool:
        """Whether anything is known: that nothing is told of streams and progress says nothing otherwise."""
        return not (self.error or self.pending)


@dataclass(frozen=True, kw_only=True)
class Observed:
    """`objects` are the live children (and those of the attempt before), `pods` all pods of the training: its own, and
    nobody else's. What of others has one of its names is in `foreign`, where no rule can read or remove it.
    """

    parent: Manifest
    runtime: Runtime
    schemas: Schemas
    objects: Mapping[Ref, Manifest] = field(default_factory=dict[Ref, Manifest])
    foreign: Mapping[Ref, Manifest] = field(default_factory=dict[Ref, Manifest])
    hidden: frozenset[Ref] = frozenset()
    """What may be there: the operator may not look. `missing` says so."""
    pods: tuple[Manifest, ...] = ()
    events: tuple[Manifest, ...] = ()
    """Of Jobs that have fewer pods than they want."""
    pools: tuple[ExpertPool, ...] = ()
    """All pools of the namespace."""
    missing: tuple[Missing, ...] = ()
    """What the spec refers to and that is not there, or what may not be looked at (`Forbidden`)."""
    messaging: Messaging = Messaging()
    progress: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """What the controller told last; empty where it told nothing, or NATS cannot be asked."""
    kuberay: bool = False
    """Whether RayJobs are served."""
    workloads: tuple[Manifest, ...] | None = None
    """Kueue's, of the attempt's RayJob; None where Kueue is not installed."""
    token: str = ""
    """A fresh random token, for the Ray cluster's Secret where there is none."""

    def may_be_there(self, ref: Ref) -> bool:
        """Whether an own object is there, as far as anybody knows."""
        return ref in self.objects or ref in self.hidden
