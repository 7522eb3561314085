"""The desired vLLM pool: its validated resource, its names, and the location of its model in a pod."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from toolorchestra.api.accelerators import accelerator
from toolorchestra.api.pool import VLLM, ExpertPool
from toolorchestra_operator.kubernetes.manifest import Manifest
from toolorchestra_operator.pools.names import PoolNames
from toolorchestra_operator.pools.runtime import PoolRuntime

CACHE_PATH: Final = "/cache"
MODEL_PATH: Final = "/model"
CREDENTIALS_PATH: Final = "/etc/toolorchestra/object-store"


@dataclass(frozen=True)
class Desired:
    """`parent` is the live object, `pool` the validated model of it; of type VLLM."""

    parent: Manifest
    pool: ExpertPool
    runtime: PoolRuntime

    @cached_property
    def names(self) -> PoolNames:
        return PoolNames.of(self.parent)

    @property
    def vllm(self) -> VLLM:
        vllm = self.pool.spec.vllm
        if vllm is None:
            raise ValueError(f"ExpertPool {self.names.name} is not served by vLLM here")
        return vllm

    @property
    def on_gpu(self) -> bool:
        """Whether a replica computes on a GPU or another accelerator; image, flags and pod security follow from it."""
        return accelerator(self.vllm.resources) is not None

    @property
    def image(self) -> str:
        return self.vllm.image or (self.runtime.gpu_image if self.on_gpu else self.runtime.cpu_image)

    @property
    def served_model(self) -> str:
        """The name under which the server serves the model: the pool's."""
        return self.names.name

    @cached_property
    def scheme(self) -> str:
        """The URI's scheme: `hf`, `pvc`, `s3` or `file`."""
        return self.vllm.model.uri.partition("://")[0]

    @property
    def model(self) -> str:
        """vLLM's `--model`: a repository's name, a folder in the pod, or the object store's URI."""
        rest = self.vllm.model.uri.partition("://")[2]
        match self.scheme:
            case "hf":
                return rest
            case "pvc":
                return f"{MODEL_PATH}/{rest.partition('/')[2]}".rstrip("/")
            case "file":
                return "/" + rest.lstrip("/")
            case _:
                return self.vllm.model.uri

    @property
    def model_claim(self) -> str | None:
        """The claim that holds the model."""
        rest = self.vllm.model.uri.partition("://")[2]
        return rest.partition("/")[0] if self.scheme == "pvc" else None

    @property
    def cache_claim(self) -> str | None:
        """The claim of the cache; None: there is none, and every start downloads and compiles."""
        cache = self.vllm.cache
        if cache is None:
            return None
        return cache.existing_claim.claim_name if cache.existing_claim else self.names.cache
