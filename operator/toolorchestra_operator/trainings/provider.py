"""Who makes a training's Ray cluster: what the two providers have in common. A module each, of pure functions.

A provider's objects are created once per attempt and never touched again. What becomes of the attempt is decided
elsewhere, from the `ClusterState` that it translates them to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any, Final, Protocol

from toolorchestra_operator.kubernetes.manifest import Manifest, Ref
from toolorchestra_operator.trainings import builtin, kuberay
from toolorchestra_operator.trainings.cluster_state import ClusterState
from toolorchestra_operator.trainings.desired import Desired
from toolorchestra_operator.trainings.names import TrainingNames
from toolorchestra_operator.trainings.remembered import Provider


class RayProvider(Protocol):
    """What `builtin` and `kuberay` are."""

    def refs(self, names: TrainingNames, attempt: int) -> tuple[Ref, ...]:
        """Everything of an attempt that is to be looked at, and deleted in this order when it is over."""
        ...

    def compute(self, names: TrainingNames, attempt: int, *, failed: bool) -> tuple[Ref, ...]:
        """What of it gives compute back once the training has ended; the rest stays until the TTL."""
        ...

    def manifests(self, desired: Desired, *, attempt: int) -> list[dict[str, Any]]:
        """The objects. OverlayRejected: `podTemplate` sets what the operator owns."""
        ...

    def ray_address(self, desired: Desired, *, attempt: int) -> str:
        """Where the driver finds Ray."""
        ...

    def state(
        self, names: TrainingNames, attempt: int, *, objects: Mapping[Ref, Manifest], pods: Sequence[Manifest]
    ) -> ClusterState:
        """What the attempt's cluster is doing; `pods` may be empty while it is up."""
        ...

    def begun(self, names: TrainingNames, attempt: int, *, objects: Mapping[Ref, Manifest]) -> datetime | None:
        """Since when it may use compute: the start deadline counts from here. None: it may not, or not yet."""
        ...


PROVIDERS: Final[Mapping[Provider, RayProvider]] = MappingProxyType({"Builtin": builtin, "KubeRay": kuberay})
