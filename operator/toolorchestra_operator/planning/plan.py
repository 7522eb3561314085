"""The result of one reconcile: frozen actions, in order, and the complete status.

Invariants
- A plan is made by a pure function of (parent, observed, now). After it is carried out, the next plan is empty.
- Every action is idempotent, so that an operator killed between two of them loses and repeats nothing: `Apply` and
  `Create` name their object, `Delete` names the UID that was observed, stream actions may be repeated.
- Actions are carried out in order. The first that fails ends the plan, and the key is retried with back-off. The status
  is written last, so that it never reports what was not done.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from toolorchestra.bus.streams import StreamSettings
from toolorchestra_operator.kubernetes.manifest import Manifest, Ref


@dataclass(frozen=True)
class Apply:
    """Server-side apply of the fields that we own. A reconciler plans it only if the object differs."""

    manifest: Manifest


@dataclass(frozen=True)
class Create:
    """Create the object once and never change it: Jobs and RayJobs of an attempt. An existing object is a success."""

    manifest: Manifest


@dataclass(frozen=True)
class Delete:
    """Delete the object with this UID (one of the same name is another object). If it is gone, that is a success."""

    ref: Ref
    uid: str
    propagation: Literal["Background", "Foreground"] = "Background"


@dataclass(frozen=True)
class MakeStreams:
    """Create or update the training's streams, consumers and buckets on a NATS server."""

    url: str = field(repr=False)
    uid: str
    settings: StreamSettings = field(default_factory=StreamSettings)


@dataclass(frozen=True)
class RemoveStreams:
    """Delete the training's streams and buckets."""

    url: str = field(repr=False)
    uid: str


@dataclass(frozen=True)
class SetFinalizer:
    """Add (`present`) or remove our finalizer on the parent."""

    present: bool


@dataclass(frozen=True)
class Emit:
    """An event on the parent; planned on transitions only."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


Action = Apply | Create | Delete | MakeStreams | RemoveStreams | SetFinalizer | Emit


@dataclass(frozen=True)
class Plan:
    """The actions, and the status; `status` None: do not write it (also if it would not change)."""

    actions: tuple[Action, ...] = ()
    status: Manifest | None = None
    requeue_after: float | None = None
    """Seconds until the next reconcile if no event comes; None: at the resync."""

    @property
    def empty(self) -> bool:
        """Return whether carrying it out would write nothing."""
        return not self.actions and self.status is None
