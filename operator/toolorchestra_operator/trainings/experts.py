"""The experts of a training: chosen at admission, resolved to endpoints, remembered in status.

An attempt's configuration has endpoints only. A pool that the operator serves with vLLM is an endpoint like any other
for the programs: its Service, the model's served name, the key that the operator created.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from toolorchestra.api.base import SecretKeyRef
from toolorchestra.api.bundle import Bundle
from toolorchestra.api.conditions import Reason
from toolorchestra.api.pool import Endpoint, ExpertPool
from toolorchestra.api.training import OrchestratorTraining

API_KEY = "api-key"
"""Key in the Secret `<pool>-api-key`, which the operator creates for a pool that it serves."""


@dataclass(frozen=True)
class Unmatched:
    """No expert can be resolved: the reason, and what to change."""

    reason: Reason
    message: str


def chosen(training: OrchestratorTraining, pools: Sequence[ExpertPool]) -> tuple[ExpertPool, ...] | Unmatched:
    """Return the pools of the namespace that are experts of the training."""
    bundle = Bundle(pools=tuple(pools))
    tools = training.spec.tools
    there = ", ".join(sorted(pool.metadata.name for pool in pools)) or "none"
    missing = [name for name in tools.experts.names or () if bundle.pool(name) is None]
    if missing:
        return Unmatched(
            Reason.POOL_NOT_FOUND, f"spec.tools.experts.names: no ExpertPool {', '.join(missing)}; there are: {there}"
        )
    found = bundle.experts(tools)
    if not found:
        message = f"spec.tools.experts.selector matches no ExpertPool with a role of an expert; there are: {there}"
        return Unmatched(Reason.NO_EXPERTS_MATCH, message)
    findings = [f"{'.'.join(map(str, path))}: {message}" for path, message in bundle.findings(training)]
    return Unmatched(Reason.INVALID_SPEC, "; ".join(findings)) if findings else found


def remembered_names(experts: Sequence[Any]) -> tuple[str, ...]:
    """Return the pools that an admitted training keeps."""
    return tuple(expert["name"] for expert in experts)


def in_status(pools: Sequence[ExpertPool]) -> list[dict[str, Any]]:
    """Return `status.experts`: the pools as they were at admission."""
    return [
        {
            "name": pool.metadata.name,
            "uid": pool.metadata.uid or "",
            "model": _model(pool),
            "price": pool.spec.price.model_dump(mode="json", by_alias=True),
        }
        for pool in pools
    ]


def _model(pool: ExpertPool) -> str:
    if pool.spec.endpoint is not None:
        return pool.spec.endpoint.model
    return pool.spec.vllm.model.uri if pool.spec.vllm is not None else ""


def resolved(pool: ExpertPool) -> ExpertPool:
    """Return the pool as an endpoint. ValueError: nothing serves it yet."""
    if pool.spec.endpoint is not None:
        return pool
    status = pool.status
    if status is None or status.url is None or status.served_model is None:
        raise ValueError(f"ExpertPool {pool.metadata.name} is not served yet")
    key = SecretKeyRef(name=f"{pool.metadata.name}-{API_KEY}", key=API_KEY)
    endpoint = Endpoint(url=status.url, model=status.served_model, api_key_secret_ref=key)
    spec = pool.spec.model_copy(update={"type": "Endpoint", "vllm": None, "endpoint": endpoint})
    return pool.model_copy(update={"spec": spec, "status": None})


def is_ready(pool: ExpertPool) -> bool:
    """Return whether its condition `Ready` is True."""
    return _says(pool, "Ready", "True")


def is_refused(pool: ExpertPool) -> bool:
    """Return whether its condition `Accepted`, once it has one, is False."""
    return _says(pool, "Accepted", "False")


def _says(pool: ExpertPool, kind: str, status: str) -> bool:
    conditions = pool.status.conditions if pool.status else ()
    return any(c.type == kind and c.status == status for c in conditions)
