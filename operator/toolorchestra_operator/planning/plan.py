"""What one reconcile decided: frozen actions, in order, and the whole status.

Invariants
- A plan is made by a pure function of (parent, observed, now). Carried out, the next one is empty.
- Every action is idempotent, so that an operator killed between two of them loses and doubles nothing: `Apply` and
  `Create` name their object, `Delete` names the UID that was seen, stream actions may be repeated.
- Actions are carried out in order; the first that fails ends the plan, and the key is tried again with back-off. The
  status is written last, so it never promises what was not done.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from toolorchestra.bus.streams import StreamSettings
from toolorchestra_operator.kubernetes.manifest import Manifest, Ref


@dataclass(frozen=True)
class Apply:
    """Server-side apply of the fields that we own. A reconciler plans it only where the object differs."""

    manifest: Manifest


@dataclass(frozen=True)
class Create:
    """Create once and never touch again: Jobs and RayJobs of an attempt. That it is there already is a success."""

    manifest: Manifest


@dataclass(frozen=True)
class Delete:
    """Delete the object with this UID (another of its name is another object). That it is gone is a success."""

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
    """Add (`present`) or take away our finalizer on the parent."""

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
    """`status` None: leave it as it is (also where it would not change)."""

    actions: tuple[Action, ...] = ()
    status: Manifest | None = None
    requeue_after: float | None = None
    """Seconds after which to look again though nothing happened; None: at the resync."""

    @property
    def empty(self) -> bool:
        """Whether carrying it out would write anything."""
        return not self.actions and self.status is None
