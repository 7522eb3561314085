"""What a replica is: model, flags, environment, probes, security; and the programs that run in it."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import web

from support.cluster.pool_world import GPU, RUNTIME, PoolWorld, vllm_pool
from toolorchestra_operator.pools.in_pod import drain
from toolorchestra_operator.pools.server import start_seconds


def made(**vllm: Any) -> PoolWorld:
    world = PoolWorld(vllm_pool(**vllm))
    world.settle()
    assert world.refs(), world.says("Accepted")
    return world


def variables(world: PoolWorld) -> dict[str, Any]:
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in world.container()["env"]}


@pytest.mark.parametrize("vllm", [{}, {"resources": GPU}])
def test_every_variable_of_vllm_is_one_that_it_reads(vllm: dict[str, Any]) -> None:
    from vllm.envs import environment_variables

    own = {name for name in variables(made(**vllm)) if name.startswith("VLLM_")}
    assert own
    assert own <= environment_variables.keys()


def flag(world: PoolWorld, name: str) -> str | None:
    command = world.container()["command"]
    return command[command.index(name) + 1] if name in command else None


@pytest.mark.parametrize(
    ("uri", "model"),
    [
        ("hf://Qwen/Qwen3-32B", "Qwen/Qwen3-32B"),
        ("pvc://models/qwen/v1", "/model/qwen/v1"),
        ("pvc://models", "/model"),
        ("file:///models/qwen", "/models/qwen"),
        ("s3://bucket/qwen", "s3://bucket/qwen"),
    ],
)
def test_where_the_model_lies(uri: str, model: str) -> None:
    world = made(model={"uri": uri, "revision": "v1", "tokenSecretRef": {"name": "t", "key": "k"}}, image="x")
    assert flag(world, "--model") == model
    assert flag(world, "--served-model-name") == "qwen"
    on_hub = uri.startswith("hf:")
    assert (flag(world, "--revision") == "v1") is on_hub
    assert (variables(world).get("HF_TOKEN") == {"secretKeyRef": {"name": "t", "key": "k"}}) is on_hub
    assert ("HF_HUB_OFFLINE" in variables(world)) is not on_hub
    mounts = {mount["mountPath"]: mount for mount in world.container()["volumeMounts"]}
    assert ("/model" in mounts) is uri.startswith("pvc:")
    if uri.startswith("s3:"):
        assert variables(world)["AWS_SHARED_CREDENTIALS_FILE"] == "/etc/toolorchestra/object-store/k"
        assert mounts["/etc/toolorchestra/object-store"]["readOnly"]


def test_without_a_gpu() -> None:
    world = made(resources={"limits": {"cpu": "2500m"}})
    container, spec = world.container(), world.template()["spec"]
    assert container["image"] == RUNTIME.cpu_image
    assert container["command"][:3] == ["python3", "-m", "vllm.entrypoints.openai.api_server"]
    assert "--enforce-eager" in container["command"]
    assert flag(world, "--kv-cache-memory-bytes") == "268435456"
    assert variables(world)["OMP_NUM_THREADS"] == "2"
    assert "VLLM_CPU_KVCACHE_SPACE" not in variables(world), "an empty one kills the start"
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_with_gpus() -> None:
    world = made(resources={"limits": {"nvidia.com/gpu": 4}}, tensorParallelSize=4, maxModelLen=4096)
    container = world.container()
    assert container["image"] == RUNTIME.gpu_image
    assert "--enforce-eager" not in container["command"]
    assert flag(world, "--tensor-parallel-size") == "4"
    assert flag(world, "--max-model-len") == "4096"
    assert "runAsUser" not in world.template()["spec"]["securityContext"], "GPU images run as root"
    shm = next(one for one in world.template()["spec"]["volumes"] if one["name"] == "shm")
    assert shm["emptyDir"] == {"medium": "Memory", "sizeLimit": "8Gi"}


def test_the_last_flag_is_the_users() -> None:
    assert made(extraArgs=["--max-num-seqs=8"]).container()["command"][-1] == "--max-num-seqs=8"


def test_development_mode_is_off_and_the_key_is_not_among_the_arguments() -> None:
    world = made(resources=GPU)
    assert variables(world)["VLLM_SERVER_DEV_MODE"] == "0"
    assert variables(world)["VLLM_API_KEY"] == {"secretKeyRef": {"name": "qwen-api-key", "key": "api-key"}}
    assert world.key() not in str(world.one("Deployment"))
    spec = world.template()["spec"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False, "a Service named vllm would set VLLM_PORT"


def test_roll_outs_lose_no_request() -> None:
    world = made(drainSeconds=120)
    spec = world.one("Deployment")["spec"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] == 150
    assert world.container()["lifecycle"]["preStop"]["exec"]["command"][-1] == "120"
    assert "lifecycle" not in made(drainSeconds=0).container()


def test_the_queue_is_on_the_deployment_and_rolls_nothing() -> None:
    world = made()
    before = world.template()
    world.change(queueName="experts")
    world.settle()
    assert world.one("Deployment")["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "experts"
    assert world.template() == before


def test_only_trainings_and_the_operator_reach_it() -> None:
    (rule,) = made().one("NetworkPolicy")["spec"]["ingress"]
    assert rule["from"] == [
        {"podSelector": {"matchExpressions": [{"key": "toolorchestra.dev/training", "operator": "Exists"}]}},
        {
            "podSelector": {
                "matchLabels": {"app.kubernetes.io/part-of": "toolorchestra", "app.kubernetes.io/component": "operator"}
            },
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "toolorchestra-system"}},
        },
    ]


def test_telemetry_where_there_is_a_collector() -> None:
    world = PoolWorld(vllm_pool(), runtime=replace(RUNTIME, otlp_endpoint="http://collector:4318/"))
    world.settle()
    assert flag(world, "--otlp-traces-endpoint") == "http://collector:4318/v1/traces"
    assert variables(world)["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] == "http/protobuf"


def test_names_of_forty_characters_fit() -> None:
    pool = vllm_pool(cache={"type": "EphemeralClaim"})
    pool["metadata"]["name"] = "q" * 40
    world = PoolWorld(pool)
    world.settle()
    assert max(len(ref.name) for ref in world.refs()) <= 63


@pytest.mark.parametrize(
    ("uri", "seconds"),
    [
        ("hf://Qwen/Qwen3-32B", 600 + 40 * 32),
        ("hf://Qwen/Qwen3-30B-A3B", 600 + 40 * 30),
        ("hf://Qwen/Qwen3-0.6B", 600 + 24),
        ("hf://HuggingFaceTB/SmolLM2-135M", 600 + 6),
        ("pvc://models/llama-405b/v1", 600 + 40 * 405),
        ("hf://org/model", 600 + 40 * 70),
        ("file:///b2b", 600 + 40 * 70),
    ],
)
def test_how_long_a_start_may_take(uri: str, seconds: int) -> None:
    assert start_seconds(uri) == seconds


def test_the_startup_probe_waits_that_long_and_the_roll_out_longer() -> None:
    world = made(model={"uri": "hf://Qwen/Qwen3-32B"})
    probe = world.container()["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] >= start_seconds("hf://Qwen/Qwen3-32B")
    assert world.one("Deployment")["spec"]["progressDeadlineSeconds"] > start_seconds("hf://Qwen/Qwen3-32B")


async def run(command: list[str], port: int, *, key: str = "secret") -> tuple[int, str]:
    """A program as the kubelet starts it, on another port."""
    command = [sys.executable, *(part.replace(":8000", f":{port}") for part in command[1:])]
    process = await asyncio.create_subprocess_exec(*command, env={"VLLM_API_KEY": key}, stderr=asyncio.subprocess.PIPE)
    _, err = await asyncio.wait_for(process.communicate(), timeout=60)
    assert process.returncode is not None
    return process.returncode, err.decode()


class Server:
    """What vLLM answers to the programs."""

    def __init__(self) -> None:
        self.healthy, self.served, self.metrics, self.asked = 200, ["qwen"], [""], 0

    async def __aenter__(self) -> Server:
        app = web.Application()
        app.add_routes(
            [web.get("/health", self._health), web.get("/v1/models", self._models), web.get("/metrics", self._metrics)]
        )
        self.runner = web.AppRunner(app)
        await self.runner.setup()
        await web.TCPSite(self.runner, "127.0.0.1", 0).start()
        self.port: int = self.runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=self.healthy)

    async def _models(self, request: web.Request) -> web.Response:
        if request.headers.get("Authorization") != "Bearer secret":
            return web.json_response({"error": "Unauthorized"}, status=401)
        return web.json_response({"data": [{"id": name} for name in self.served]})

    async def _metrics(self, _: web.Request) -> web.Response:
        self.asked += 1
        return web.Response(text=self.metrics.pop(0) if len(self.metrics) > 1 else self.metrics[0])


async def test_ready_is_the_model_by_its_name() -> None:
    command = made().container()["readinessProbe"]["exec"]["command"]
    async with Server() as server:
        assert await run(command, server.port) == (0, "")
        code, said = await run(command, server.port, key="another")
        assert (code, "401" in said) == (1, True)
        server.served = ["other"]
        code, said = await run(command, server.port)
        assert (code, "serves ['other'], not qwen" in said) == (1, True)
        server.served, server.healthy = ["qwen"], 503
        assert (await run(command, server.port))[0] == 1
    assert (await run(command, server.port))[0] == 1


METRICS = """# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{{engine="0",model_name="qwen"}} {running}
vllm:num_requests_waiting{{engine="0",model_name="qwen"}} {waiting}
vllm:num_requests_waiting_by_reason{{engine="0",reason="x"}} 7.0
"""


def test_what_is_in_flight() -> None:
    assert drain.busy(METRICS.format(running="1.0", waiting="0.0"))
    assert drain.busy(METRICS.format(running="0.0", waiting="2.0"))
    assert not drain.busy(METRICS.format(running="0.0", waiting="0.0"))


async def test_draining_waits_until_it_is_idle_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "LEAVE_SECONDS", 0.0)
    slept: list[float] = []
    monkeypatch.setattr(drain.time, "sleep", slept.append)
    busy, idle = METRICS.format(running="1.0", waiting="0.0"), METRICS.format(running="0.0", waiting="0.0")
    async with Server() as server:
        server.metrics = [busy, idle, busy, idle, idle]
        await asyncio.to_thread(drain.main, f"http://127.0.0.1:{server.port}", "60")
        assert server.asked == 5


async def test_draining_ends_in_time() -> None:
    command = made(drainSeconds=1).container()["lifecycle"]["preStop"]["exec"]["command"]
    async with Server() as server:
        server.metrics = [METRICS.format(running="1.0", waiting="0.0")]
        assert (await run(command, server.port))[0] == 0
