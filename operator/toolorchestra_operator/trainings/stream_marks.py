"""The metadata of a training's streams that names their owner, so that a sweep need not guess from a name. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self

from toolorchestra.bus.streams import StreamNames
from toolorchestra.contract.labels import MANAGED_BY_LABEL, MANAGER, TRAINING_LABEL
from toolorchestra_operator.trainings.names import TrainingNames

_CLUSTER: Final = "toolorchestra.dev/cluster"
_NAMESPACE: Final = "toolorchestra.dev/namespace"
_UID: Final = "toolorchestra.dev/uid"


@dataclass(frozen=True, order=True)
class Owner:
    """The training that streams were created for, and its cluster."""

    cluster: str
    names: TrainingNames

    @classmethod
    def of(cls, stream: str, metadata: Mapping[str, str]) -> Self | None:
        """Return the owner of the streams to which this stream belongs; it is created first and removed last.

        None: they are not an operator's, or it is another of their streams.
        """
        if metadata.get(MANAGED_BY_LABEL) != MANAGER:
            return None
        try:
            names = TrainingNames(metadata[TRAINING_LABEL], metadata[_NAMESPACE], metadata[_UID])
            owner = cls(metadata[_CLUSTER], names)
            return owner if stream == StreamNames(names.short_uid).tasks else None
        except (KeyError, ValueError):
            return None


def marks_of(names: TrainingNames, *, cluster: str) -> tuple[tuple[str, str], ...]:
    """Return the metadata of a training's streams."""
    return (
        (MANAGED_BY_LABEL, MANAGER),
        (_CLUSTER, cluster),
        (_NAMESPACE, names.namespace),
        (TRAINING_LABEL, names.name),
        (_UID, names.uid),
    )
