"""Builds the endpoints of expert pools from their resources."""

from __future__ import annotations

from collections.abc import Callable

from toolorchestra.api.base import SecretKeyRef
from toolorchestra.api.pool import ExpertPool, ExpertPoolSpec
from toolorchestra.experts.endpoint import Endpoint, Limits
from toolorchestra.tools.build import price_of

Secrets = Callable[[SecretKeyRef], str]
"""Returns the secret value behind a reference. Raises an error that names what is missing."""

_LATENCIES_BEFORE_TIMEOUT = 50
_MIN_TIMEOUT_SECONDS = 120.0


def build_endpoint(
    pool: ExpertPool, *, secrets: Secrets, url: str | None = None, model: str | None = None, clients: int = 1
) -> Endpoint:
    """Return the endpoint of a pool.

    `url` and `model` say where the pool is really served (a local vLLM, the local simulator, `status.url`). They
    override the resource's own values. `clients` is the number of clients that share the pool's limits.

    Raises:
        ValueError: the pool has no endpoint of its own, and `url` or `model` is not given.
    """
    spec, own = pool.spec, pool.spec.endpoint
    url = url or (own.url if own else None)
    model = model or (own.model if own else None)
    if url is None or model is None:
        raise ValueError(f"ExpertPool {pool.metadata.name}: nothing serves it yet: no url and model are known")
    key = own.api_key_secret_ref if own else None
    names = own.parameter_names.model_dump(by_alias=True) if own else {}
    return Endpoint(
        pool=pool.metadata.name,
        url=url,
        model=model,
        price=price_of(spec.price),
        limits=_limits(spec, clients=clients),
        api_key=secrets(key) if key is not None else None,
        parameters={
            name: float(value) for name, value in spec.parameters.model_dump(by_alias=True).items() if value is not None
        },
        parameter_names=names,
        simulated=spec.simulated,
        # Far above the slowest normal answer, because a request that timed out may have been paid.
        timeout_seconds=max(
            _MIN_TIMEOUT_SECONDS, _LATENCIES_BEFORE_TIMEOUT * spec.expected_latency_milliseconds / 1000
        ),
    )


def _limits(spec: ExpertPoolSpec, *, clients: int) -> Limits:
    limits = spec.limits
    return Limits(
        max_concurrency=max(1, limits.max_concurrency // clients),
        requests_per_minute=_share(limits.requests_per_minute, clients),
        tokens_per_minute=_share(limits.tokens_per_minute, clients),
        max_output_tokens=limits.max_output_tokens,
        max_input_tokens=limits.max_input_tokens,
    )


def _share(rate: int | None, clients: int) -> int | None:
    return None if rate is None else max(1, rate // clients)
