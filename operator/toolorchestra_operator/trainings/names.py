"""Names and labels of a training's objects. Deterministic: an operator without any memory finds them again.

A training's name has at most 40 characters, so that every name here is a DNS label. Objects of an attempt have its
number in their name, and are created once; the others are named after the training.
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
    """The names of one training's objects."""

    about = TRAININGS

    @property
    def short_uid(self) -> str:
        """The first 8 digits of the UID; two trainings of one name never share it."""
        return short_uid(self.uid)

    @property
    def storage(self) -> str:
        return f"{self.name}-storage"

    @property
    def model_cache(self) -> str:
        """The claim of the model cache. Not `…-cache`: pools' claims end like that, and `x-model` may be a pool."""
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
        """Return the name of the attempt's configuration, of its head's Service, and of its RayJob."""
        return f"{self.name}-{number}"

    def config_ref(self, number: int) -> Ref:
        """The ConfigMap that an attempt reads."""
        return Ref("v1", "ConfigMap", self.namespace, self.attempt(number))

    def nats(self, number: int) -> str:
        """Return the name of the attempt's Secret with its NATS URL, if the URL is secret."""
        return f"{self.attempt(number)}-nats"

    def nats_ref(self, number: int) -> Ref:
        """Return the reference to that Secret."""
        return Ref("v1", "Secret", self.namespace, self.nats(number))

    def job(self, number: int, component: Component) -> str:
        return f"{self.name}-{number}-{component}"

    def labels(self, component: Component, *, attempt: int | None = None) -> dict[str, str]:
        """Return the labels of every object and pod; with `attempt`, those of that attempt only."""
        labels = our_labels(component) | {TRAINING_LABEL: self.name}
        return labels if attempt is None else labels | {ATTEMPT_LABEL: str(attempt), UID_LABEL: self.uid}

    def metadata(
        self, name: str, component: Component, *, attempt: int | None = None, extra: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Return the metadata of an owned object; `extra` are additional labels."""
        return self.owned(name, {**self.labels(component, attempt=attempt), **(extra or {})})
