"""The desired training: its validated resource, its names, and what the operator's configuration adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from toolorchestra.api.accelerators import accelerator
from toolorchestra.api.training import OrchestratorTraining, OrchestratorTrainingSpec
from toolorchestra_operator.kubernetes.manifest import Manifest
from toolorchestra_operator.trainings.names import TrainingNames
from toolorchestra_operator.trainings.references import described, named_claim
from toolorchestra_operator.trainings.runtime import Runtime
from toolorchestra_operator.trainings.terms import claim_of, folder_of

STORAGE_PATH = "/storage"
CONFIG_PATH = "/etc/toolorchestra"
VOLUMES_PATH = "/volumes"
MODELS_PATH = "/models"


@dataclass(frozen=True)
class Desired:
    """`parent` is the live object, `training` the validated model of it."""

    parent: Manifest
    training: OrchestratorTraining
    runtime: Runtime

    @cached_property
    def names(self) -> TrainingNames:
        return TrainingNames.of(self.parent)

    @property
    def spec(self) -> OrchestratorTrainingSpec:
        return self.training.spec

    @property
    def generation(self) -> int:
        return int(self.parent["metadata"].get("generation", 1))

    @property
    def on_gpu(self) -> bool:
        """Whether trainers or engines compute on GPUs; the whole cluster then runs the GPU image."""
        wanted = (self.spec.ray.trainers.resources, self.spec.ray.engines.resources)
        return any(accelerator(one) is not None for one in wanted)

    @property
    def cluster_image(self) -> str:
        return self.spec.ray.image or (self.runtime.gpu_image if self.on_gpu else self.runtime.cpu_image)

    def overlay(self, component: str) -> tuple[str, Mapping[str, Any] | None]:
        """Return path and value of the `podTemplate` for a component's pods."""
        if component == "workers":
            return "spec.rollout.podTemplate", self.spec.rollout.pod_template
        return "spec.ray.podTemplate", self.spec.ray.pod_template

    @property
    def nats_url(self) -> str | None:
        return self.spec.messaging.url or self.runtime.nats_url

    @property
    def stream_replicas(self) -> int:
        return self.spec.messaging.stream_replicas or self.runtime.stream_replicas

    @property
    def run_path(self) -> str:
        """The training's folder in storage, by UID, because trainings may share a volume."""
        return f"{STORAGE_PATH}/{folder_of(self.spec.storage, self.names)}"

    @property
    def claim(self) -> str:
        """The name of the storage claim."""
        return claim_of(self.spec.storage, self.names)

    @property
    def volumes(self) -> Mapping[str, str]:
        """Claims that URIs of the spec name, with their mount paths (read-only)."""
        named = (
            named_claim(path, value) for path, value in described(self.parent, skip=("spec.export", "spec.storage"))
        )
        claims = sorted({claim for claim in named if claim is not None})
        return {claim: f"{VOLUMES_PATH}/{claim}" for claim in claims}

    @property
    def model_dir(self) -> str:
        """The folder with the initial model in every pod; one volume may keep those of several trainings."""
        scheme, _, rest = self.spec.model.uri.partition("://")
        match scheme:
            case "file":
                return rest
            case "pvc":
                claim, _, path = rest.partition("/")
                return f"{VOLUMES_PATH}/{claim}/{path}"
            case _:
                revision = f"@{self.spec.model.revision}" if self.spec.model.revision else ""
                return f"{MODELS_PATH}/{rest.replace('/', '--')}{revision.replace('/', '--')}"

    @property
    def model_cache(self) -> str | None:
        """The claim that keeps weights and compiled code; None: every pod downloads and compiles."""
        cache = self.spec.ray.model_cache
        if cache is None:
            return None
        return cache.existing_claim.claim_name if cache.existing_claim else self.names.model_cache

    @property
    def fetched(self) -> bool:
        """Whether the pods themselves download the model."""
        return self.spec.model.uri.startswith("hf://")
