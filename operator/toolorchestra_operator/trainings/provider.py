"""The protocol of the two providers of a training's Ray cluster. Each is a module of pure functions.

A provider's objects are created once per attempt and never changed. What follows for the attempt is decided elsewhere,
from the `ClusterState` into which the provider translates them.
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
    """The functions that `builtin` and `kuberay` have."""

    def refs(self, names: TrainingNames, attempt: int) -> tuple[Ref, ...]:
        """Return all objects of an attempt to observe; they are deleted in this order when it is over."""
        ...

    def compute(self, names: TrainingNames, attempt: int, *, failed: bool) -> tuple[Ref, ...]:
        """Return the objects that use compute, to delete once the training has ended; the rest stays until the TTL."""
        ...

    def manifests(self, desired: Desired, *, attempt: int) -> list[dict[str, Any]]:
        """Return the objects. OverlayRejected: `podTemplate` sets what the operator owns."""
        ...

    def ray_address(self, desired: Desired, *, attempt: int) -> str:
        """Return the address at which the driver finds Ray."""
        ...

    def state(
        self, names: TrainingNames, attempt: int, *, objects: Mapping[Ref, Manifest], pods: Sequence[Manifest]
    ) -> ClusterState:
        """Return the state of the attempt's cluster; `pods` may be empty while it is up."""
        ...

    def begun(self, names: TrainingNames, attempt: int, *, objects: Mapping[Ref, Manifest]) -> datetime | None:
        """Return since when it may use compute, where the start deadline begins. None: it may not, or not yet."""
        ...


PROVIDERS: Final[Mapping[Provider, RayProvider]] = MappingProxyType({"Builtin": builtin, "KubeRay": kuberay})
