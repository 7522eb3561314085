"""The observed facts for one reconcile of a training, frozen. The observer fills them in; tests write them directly."""

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
    """The state of the training's streams on NATS. `ready`: all exist; `partial`: some exist; `error`: why that is
    unknown; `pending`: it is not known yet. `leases`: tasks that all workers together may hold; None: not read.
    `progress`: the controller's last report; empty: none."""

    ready: bool = False
    partial: bool = False
    error: str = ""
    pending: str = ""
    leases: int | None = None
    progress: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def answered(self) -> bool:
        """Whether NATS answered; if not, streams and progress are unknown, not absent."""
        return not (self.error or self.pending)


@dataclass(frozen=True, kw_only=True)
class Observed:
    """`objects` are the live children (and those of the previous attempt), `pods` all pods of the training; both only
    its own. Foreign objects under its names are in `foreign`, where no rule can read or remove them.
    """

    parent: Manifest
    runtime: Runtime
    schemas: Schemas
    objects: Mapping[Ref, Manifest] = field(default_factory=dict[Ref, Manifest])
    foreign: Mapping[Ref, Manifest] = field(default_factory=dict[Ref, Manifest])
    hidden: frozenset[Ref] = frozenset()
    """Objects that may exist, but that the operator may not read. `missing` says so."""
    pods: tuple[Manifest, ...] = ()
    events: tuple[Manifest, ...] = ()
    """Events of Jobs that have fewer pods than they want."""
    pools: tuple[ExpertPool, ...] = ()
    """All pools of the namespace."""
    missing: tuple[Missing, ...] = ()
    """What the spec refers to and does not exist, or what may not be read (`Forbidden`)."""
    messaging: Messaging = Messaging()
    progress: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """The controller's last report; empty: there is none, or NATS does not answer."""
    kuberay: bool = False
    """Whether RayJobs are served."""
    workloads: tuple[Manifest, ...] | None = None
    """Kueue's Workloads of the attempt's RayJob; None: Kueue is not installed."""
    token: str = ""
    """A new random token, for the Ray cluster's Secret if there is none."""

    def may_be_there(self, ref: Ref) -> bool:
        """Return whether an own object exists, as far as is known."""
        return ref in self.objects or ref in self.hidden
