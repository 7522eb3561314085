"""No secret leaves the Secrets: all that the operator makes, says or logs is looked through for every one."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from support.cluster.mortal_operator import LookingOperator
from support.cluster.operator_process import operator_process, until
from support.cluster.pool_world import vllm_pool
from support.cluster.training_life import GROUP, Stage
from testbed.api import Api
from testbed.cluster import Cluster
from toolorchestra.local.nats_server import NatsServer
from toolorchestra_operator.kubernetes.api_server import ApiServer
from toolorchestra_operator.runtime.settings import Settings

GIVEN = {"operator": "0perator", "tenant": "tenant-s3cret", "dead": "dead-s3cret"}
"""Passwords in URLs."""
IMAGES = {"cpu_image": "cpu:1", "gpu_image": "gpu:1", "worker_image": "worker:1"}


def url(server: NatsServer, who: str) -> str:
    """Of a server that lets everybody in, and so takes any password."""
    return server.url.replace("://", f"://{who}:{GIVEN[who]}@")


def give(api: Api, namespace: str, name: str, value: str) -> dict[str, str]:
    """A Secret of a person's; the reference to it."""
    api.create(f"/api/v1/namespaces/{namespace}/secrets", {"metadata": {"name": name}, "stringData": {"k": value}})
    return {"name": name, "key": "k"}


def secrets(api: Api, namespace: str) -> Iterator[str]:
    """Every value of every Secret that is there: what people gave, and what the operator made up."""
    for one in api.get(f"/api/v1/namespaces/{namespace}/secrets")["items"]:
        for value in (one.get("data") or {}).values():
            yield base64.b64decode(value).decode()


def is_told(secret: str, text: str) -> bool:
    return secret in text or base64.b64encode(secret.encode()).decode() in text


@pytest.mark.parametrize("provider", ["Builtin", "KubeRay"])
async def test_what_is_made_said_and_logged_holds_no_secret(
    kuberay: Cluster,
    server: ApiServer,
    namespace: str,
    nats_server: NatsServer,
    bus: Client,
    provider: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    api, pools = kuberay.api, f"{GROUP}/namespaces/{namespace}/expertpools"
    settings = Settings.model_validate({"nats_url": url(nats_server, "operator"), **IMAGES})
    logging.getLogger(__name__).info("%r %s", settings, settings.model_dump_json())
    operator = LookingOperator(server, settings)
    refs = {name: give(api, namespace, name, f"given-{name}-s3cret") for name in ("hub", "key", "head", "workers")}
    key = {"url": "http://expert.example/v1", "model": "oak", "apiKeySecretRef": refs["key"], "probe": "None"}
    served = vllm_pool(model={"uri": "hf://Qwen/Qwen3-0.6B", "tokenSecretRef": refs["hub"]})
    asked = {**vllm_pool(), "metadata": {"name": "oak"}}
    asked["spec"] = {**asked["spec"], "type": "Endpoint", "endpoint": key}
    del asked["spec"]["vllm"]
    for pool in (served, asked):
        api.create(pools, pool)
        await operator.settles(namespace, pool["metadata"]["name"], kind="ExpertPool")
    price = {"inputUSDPerMillionTokens": "0.2", "outputUSDPerMillionTokens": "0.2"}
    model = {"uri": "hf://Qwen/Qwen3-8B", "tokenSecretRef": refs["hub"], "price": price}
    own = {"controllerSecretRef": refs["head"], "workerSecretRef": refs["workers"]}
    messaging: dict[str, dict[str, Any]] = {
        "operators": {},
        "own": own,
        "half": {"workerSecretRef": refs["workers"]},
        "tenants": {"url": url(nats_server, "tenant")},
        "dead": {"url": f"nats://dead:{GIVEN['dead']}@127.0.0.1:1"},
    }
    for number, (name, spec) in enumerate(messaging.items()):
        stage = Stage(api, namespace, bus, name)
        stage.submit(pools=not number, messaging=spec, ray={"provider": provider}, model=model)
        if not number:
            for pool_name in ("small", "large"):
                await operator.settles(namespace, pool_name, kind="ExpertPool")
        await operator.settles(namespace, name)
    made = {about.kind for about, _ in operator.sent}
    jobs = {"Builtin": {"Job", "Service"}, "KubeRay": {"RayJob"}}[provider]
    assert made >= {"ConfigMap", "Secret", "Deployment", "PersistentVolumeClaim", "Event", *jobs}
    held = {one["metadata"]["name"] for one in api.get(f"/api/v1/namespaces/{namespace}/secrets")["items"]}
    assert {name for name in held if name.endswith("-nats")} == {"operators-1-nats", "half-1-nats", "tenants-1-nats"}
    assert Stage(api, namespace, bus, "dead").condition("MessagingReady") == ("False", "MessagingUnreachable")
    all_secrets = {*GIVEN.values(), *secrets(api, namespace)}
    assert len(all_secrets) >= 3 + 4 + 4, "what people gave, and the Ray tokens"
    for secret in sorted(all_secrets):
        for about, body in operator.sent:
            assert about.kind == "Secret" or not is_told(secret, json.dumps(body)), f"{about} tells a secret"
        assert not is_told(secret, caplog.text)
    for name in messaging:
        api.delete(f"{GROUP}/namespaces/{namespace}/orchestratortrainings/{name}")
    await operator.close()


async def test_the_process_logs_and_measures_no_secret(
    cluster: Cluster, namespace: str, nats_server: NatsServer, bus: Client, tmp_path: Path
) -> None:
    flags = ("--watch-namespaces", namespace, "--nats-url", url(nats_server, "operator"), "--cpu-image", "cpu:1")
    log = tmp_path / "operator.log"
    stage = Stage(cluster.api, namespace, bus)
    async with operator_process(cluster.kubeconfig, log, *flags) as operator:
        stage.submit()

        async def runs() -> bool:
            made = await asyncio.to_thread(stage.jobs, 1)
            return len(made) == 3 and stage.condition("MessagingReady")[0] == "True"

        await until(runs, seconds=90)
        told = "".join(str(sample) for sample in await operator.samples())
        assert await operator.ends() == 0
    lines = log.read_text()
    assert f'"nats_url":"{nats_server.url}"' in lines
    for secret in (GIVEN["operator"], *secrets(cluster.api, namespace)):
        assert not is_told(secret, lines + told)
