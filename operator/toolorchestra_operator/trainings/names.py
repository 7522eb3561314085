"""Names and labels of a training's objects. Deterministic: an operator that forgot everything finds them again.

A training's name has at most 40 characters, so that every name here is a DNS label. What belongs to an attempt carries
its number, and is made once; the rest is named after the training.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from toolorchestra.contract.labels import ATTEMPT_LABEL, TRAINING_LABEL, UID_LABEL, short_uid
from toolorchestra_operator.kubernetes.kinds import TRAININGS
from toolorchestra_operator.kubernetes.manifest import Ref
from toolorchestra_operator.kubernetes.owner import Owner, our_labels

Component = Literal["head", "trainers", "engines", "workers", "storage", "config", "ray"]


@dataclass(frozen=True, order=True)
class TrainingNames(Owner):
    """Of one training."""

    about = TRAININGS

    @property
    def short_uid(self) -> str:
        """Two namespaces, or a delete and a re-create, never meet under it."""
        return short_uid(self.uid)

    @property
    def storage(self) -> str:
        return f"{self.name}-storage"

    @property
    def model_cache(self) -> str:
        """Not `…-cache`: that ending is of pools' claims, and `x-model` may be a pool."""
        return f"{self.name}-models"

    @property
    def ray_token(self) -> str:
        return f"{self.name}-ray"

    @property
    def token_ref(self) -> Ref:
        """The Secret with the token of the training's Ray clusters."""
        return Ref("v1", "Secret", self.namespace, self.ray_token)

    @property
    def workers(self) -> str:
        return f"{self.name}-workers"

    def attempt(self, number: int) -> str:
        """Of the attempt's configuration, its head's Service, and its RayJob."""
        return f"{self.name}-{number}"

    def config_ref(self, number: int) -> Ref:
        """The ConfigMap that an attempt reads."""
        return Ref("v1", "ConfigMap", self.namespace, self.attempt(number))

    def nats(self, number: int) -> str:
        """Of the attempt's Secret with its NATS URL, where that is one."""
        return f"{self.attempt(number)}-nats"

    def nats_ref(self, number: int) -> Ref:
        """That Secret."""
        return Ref("v1", "Secret", self.namespace, self.nats(number))

    def job(self, number: int, component: Component) -> str:
        return f"{self.name}-{number}-{component}"

    def labels(self, component: Component, *, attempt: int | None = None) -> dict[str, str]:
        """What every object and pod carries; with `attempt`, what only that attempt's do."""
        labels = our_labels(component) | {TRAINING_LABEL: self.name}
        return labels if attempt is None else labels | {ATTEMPT_LABEL: str(attempt), UID_LABEL: self.uid}

    def metadata(
        self, name: str, component: Component, *, attempt: int | None = None, extra: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Metadata of an owned object; `extra` are further labels."""
        return self.owned(name, {**self.labels(component, attempt=attempt), **(extra or {})})
