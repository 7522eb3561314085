"""What an attempt under way, and a training that has ended, is looked after with. Pure.

None of it depends on whether the spec is admitted now: an end, a deadline, `suspend`, the TTL and a deletion are never
held up by what is wrong with what would be made next.
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
        """Who makes its Ray clusters."""
        return PROVIDERS[self.provider]

    @property
    def queue(self) -> str | None:
        """The queue that decides when it may use compute; None: nobody does."""
        return self.terms.queue_name if self.provider == "KubeRay" else None

    @property
    def claim(self) -> str:
        """The claim that its storage is."""
        return claim_of(self.terms.storage, self.names)

    @property
    def export_uri(self) -> str:
        """Where its model lies once it is complete."""
        return f"pvc://{self.claim}/{folder_of(self.terms.storage, self.names)}/export/last"

    def everything_of(self, attempt: int) -> tuple[Ref, ...]:
        """What an attempt that is over leaves: its cluster, then its configuration."""
        names = self.names
        return (*self.ray.refs(names, attempt), names.config_ref(attempt), names.nats_ref(attempt))
