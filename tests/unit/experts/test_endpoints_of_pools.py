"""Endpoints as pools describe them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from toolorchestra.api.base import SecretKeyRef
from toolorchestra.api.pool import ExpertPool
from toolorchestra.experts.build import build_endpoint


def pool(**spec: Any) -> ExpertPool:
    endpoint = {
        "url": "https://experts.test/v1",
        "model": "big",
        "apiKeySecretRef": {"name": "keys", "key": "big"},
        "parameterNames": {"maxTokens": "max_completion_tokens"},
    }
    fields = {
        "price": {"inputUSDPerMillionTokens": "1.25", "outputUSDPerMillionTokens": "10"},
        "expectedLatencyMilliseconds": 31000,
        "limits": {"maxOutputTokens": 700, "maxConcurrency": 10, "requestsPerMinute": 60, "tokensPerMinute": 1000},
        "parameters": {"temperature": "0", "topP": "0.9"},
        "type": "Endpoint",
        "endpoint": endpoint,
    } | spec
    resource = {"apiVersion": "toolorchestra.dev/v1alpha1", "kind": "ExpertPool", "metadata": {"name": "oak"}}
    return ExpertPool.model_validate(resource | {"spec": fields})


def secret(ref: SecretKeyRef) -> str:
    return f"{ref.name}/{ref.key}"


def test_everything_of_the_pool_arrives() -> None:
    endpoint = build_endpoint(pool(), secrets=secret)
    assert (endpoint.pool, endpoint.url, endpoint.model) == ("oak", "https://experts.test/v1", "big")
    assert endpoint.api_key == "keys/big"
    assert endpoint.price.output_usd_per_million_tokens == Decimal(10)
    assert endpoint.parameters == {"temperature": 0.0, "topP": 0.9}
    assert endpoint.wire_name("maxTokens") == "max_completion_tokens"
    assert endpoint.wire_name("topP") == "top_p"
    assert endpoint.limits.max_output_tokens == 700
    assert not endpoint.simulated
    assert endpoint.timeout_seconds == 1550


def test_clients_share_the_limits() -> None:
    limits = build_endpoint(pool(), secrets=secret, clients=4).limits
    assert (limits.max_concurrency, limits.requests_per_minute, limits.tokens_per_minute) == (2, 15, 250)
    assert build_endpoint(pool(limits={}), secrets=secret, clients=1000).limits.max_concurrency == 1


def test_a_served_pool_needs_to_be_served() -> None:
    served = pool(type="VLLM", endpoint=None, vllm={"model": {"uri": "hf://Qwen/Qwen3-8B"}})
    with pytest.raises(ValueError, match="nothing serves it yet"):
        build_endpoint(served, secrets=secret)
    endpoint = build_endpoint(served, secrets=secret, url="http://127.0.0.1:8000/v1", model="served")
    assert (endpoint.url, endpoint.model, endpoint.api_key) == ("http://127.0.0.1:8000/v1", "served", None)
