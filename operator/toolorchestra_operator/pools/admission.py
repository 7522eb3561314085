"""Whether a pool can work with its spec on this cluster. Pure."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from toolorchestra.api.accelerators import accelerator, mistakes
from toolorchestra.api.conditions import Reason
from toolorchestra.api.pool import ExpertPool
from toolorchestra_operator.kubernetes.manifest import Manifest
from toolorchestra_operator.planning.needs import Missing
from toolorchestra_operator.planning.overlay import claims_devices
from toolorchestra_operator.pools.desired import Desired
from toolorchestra_operator.pools.reach import Reach, host_of


def read(parent: Manifest) -> ExpertPool | Missing:
    """Return the validated pool. The models refuse a stored object only if the CRD is older."""
    try:
        return ExpertPool.model_validate({key: value for key, value in parent.items() if key != "status"})
    except ValidationError as error:
        said = "; ".join(f"{_path(one['loc'])}: {one['msg']}" for one in error.errors())
        return Missing(Reason.INVALID_SPEC, said)


def unreachable(pool: ExpertPool, reach: Reach) -> Missing | None:
    """Return a refusal if the endpoint's host may never be called, whatever its address is."""
    if pool.spec.endpoint is None:
        return None
    refused = reach.refuses(host_of(pool.spec.endpoint.url))
    return None if refused is None else Missing(Reason.HOST_NOT_ALLOWED, f"spec.endpoint.url: {refused}")


def unworkable(desired: Desired) -> Missing | None:
    """Return a refusal of what the schema allows and cannot work."""
    vllm = desired.vllm
    wrong = tuple(mistakes(vllm.resources, claims=claims_devices(vllm.pod_template)))
    if wrong:
        return Missing(Reason.INVALID_SPEC, "; ".join(f"spec.vllm.resources: {one}" for one in wrong))
    found = accelerator(vllm.resources)
    if found is not None and found.torch != "cuda" and vllm.image is None:
        message = f"spec.vllm.image: {found.resource} needs an image whose vLLM is made for it, and the chart's is not"
        return Missing(Reason.INVALID_SPEC, f"{message}: name one")
    cache = vllm.cache
    if cache and cache.ephemeral_claim and "ReadWriteOncePod" in cache.ephemeral_claim.access_modes:
        message = (
            "spec.vllm.cache.ephemeralClaim.accessModes: ReadWriteOncePod lets one pod in, and a roll-out needs two"
        )
        return Missing(Reason.INVALID_SPEC, f"{message}: use ReadWriteMany, or ReadWriteOnce on one node")
    if desired.scheme == "s3" and not desired.on_gpu and vllm.image is None:
        message = "spec.vllm.model.uri: the image for pools without a GPU cannot stream from s3://"
        return Missing(Reason.INVALID_SPEC, f"{message}: use hf://, pvc:// or file://, or set spec.vllm.image")
    return None


def _path(location: tuple[Any, ...]) -> str:
    return ".".join(str(part) for part in location)
