"""What is needed to supervise a running attempt, and a training that has ended. Pure.

None of it depends on whether the spec is admitted now: an error in what would be created next never delays an end, a
deadline, `suspend`, the TTL or a deletion.
"""

from __future__ import annotations

from dataclasses import dataclass

from toolorchestra_operator.kubernetes.manifest import Ref
from toolorchestra_operator.trainings.names import TrainingNames
from toolorchestra_operator.trainings.provider import PROVIDERS, RayProvider
from toolorchestra_operator.trainings.remembered import Provider
from toolorchestra_operator.trainings.terms import Terms, claim_of, folder_of


@dataclass(frozen=True)
class Supervised:
    """A training that was admitted once."""

    names: TrainingNames
    terms: Terms
    provider: Provider

    @property
    def ray(self) -> RayProvider:
        """The provider of its Ray clusters."""
        return PROVIDERS[self.provider]

    @property
    def queue(self) -> str | None:
        """The queue that decides when it may use compute; None: there is none."""
        return self.terms.queue_name if self.provider == "KubeRay" else None

    @property
    def claim(self) -> str:
        """The name of its storage claim."""
        return claim_of(self.terms.storage, self.names)

    @property
    def export_uri(self) -> str:
        """The URI of its model once it is complete."""
        return f"pvc://{self.claim}/{folder_of(self.terms.storage, self.names)}/export/last"

    def everything_of(self, attempt: int) -> tuple[Ref, ...]:
        """Return the objects of an attempt that is over: its cluster, then its configuration."""
        names = self.names
        return (*self.ray.refs(names, attempt), names.config_ref(attempt), names.nats_ref(attempt))
