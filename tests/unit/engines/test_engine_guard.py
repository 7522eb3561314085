"""The control guard against Starlette's real router, over real sockets where it matters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from toolorchestra.engines import plugin_path
from toolorchestra.engines.arguments import EngineConfig, engine_arguments, engine_environment, start_seconds
from toolorchestra.engines.middleware import OPEN_ROUTES, SECRET_ENV, SECRET_HEADER, ControlGuard

CONTROL = [
    ("POST", "/pause"),
    ("POST", "/resume"),
    ("POST", "/update_weights"),
    ("POST", "/collective_rpc"),
    ("GET", "/weight_info"),
    ("POST", "/health"),
    ("GET", "/inference/v1/generate"),
    ("POST", "/inference/v1/generate/"),
    ("POST", "//pause"),
    ("POST", "/v1/load_lora_adapter"),
    ("OPTIONS", "/pause"),
    ("HEAD", "/pause"),
]


async def answer(request: Request) -> PlainTextResponse:
    return PlainTextResponse("reached")


async def speak(socket: WebSocket) -> None:
    await socket.accept()
    await socket.close()


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> TestClient:
    monkeypatch.setenv(SECRET_ENV, "s3cret")
    methods = ["GET", "POST", "OPTIONS", "HEAD"]
    app = Starlette(
        routes=[WebSocketRoute("/v1/realtime", speak), Mount("/", Route("/{path:path}", answer, methods=methods))]
    )
    return TestClient(ControlGuard(app))  # type: ignore[arg-type]


@pytest.mark.parametrize(("method", "path"), sorted(OPEN_ROUTES))
def test_anyone_may_generate_and_read_health(client: TestClient, method: str, path: str) -> None:
    assert client.request(method, path).status_code == 200


@pytest.mark.parametrize(("method", "path"), CONTROL)
def test_all_else_needs_the_secret(client: TestClient, method: str, path: str) -> None:
    assert client.request(method, path).status_code == 403
    assert client.request(method, path, headers={SECRET_HEADER: "wrong"}).status_code == 403
    assert client.request(method, path, headers={SECRET_HEADER: "s3cret"}).status_code == 200


def test_two_headers_are_refused(client: TestClient) -> None:
    headers = [(SECRET_HEADER, "wrong"), (SECRET_HEADER, "s3cret")]
    assert client.post("/pause", headers=headers).status_code == 403


def test_websockets_need_the_secret(client: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/v1/realtime"):
        pass
    with client.websocket_connect("/v1/realtime", headers={SECRET_HEADER: "s3cret"}):
        pass


def test_without_a_secret_the_guard_fails_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SECRET_ENV, raising=False)
    client = TestClient(ControlGuard(Starlette(routes=[Route("/pause", answer, methods=["POST"])])))  # type: ignore[arg-type]
    assert client.post("/pause", headers={SECRET_HEADER: ""}).status_code == 403


def test_arguments_and_environment() -> None:
    config = EngineConfig(model_dir="/models/tiny", max_model_len=512, threads=2, extra_args=("--x", "1"))
    arguments = engine_arguments(config, port=8123, base={})
    text = " ".join(arguments)
    for wanted in (
        "--model /models/tiny",
        "--port 8123",
        "--max-model-len 512",
        "--generation-config vllm",
        "--enable-scale-out",
        "--middleware toolorchestra.engines.middleware.ControlGuard",
        '{"backend": "toolorchestra_snapshot"}',
        "--enforce-eager",
    ):
        assert wanted in text
    assert arguments[-2:] == ["--x", "1"]
    environment = engine_environment(config, secret="k", base={"VLLM_CPU_KVCACHE_SPACE": "", "HOME": "/root"})
    assert "VLLM_CPU_KVCACHE_SPACE" not in environment
    assert environment["HOME"] == "/root"
    assert environment[SECRET_ENV] == "k"
    assert environment["OMP_NUM_THREADS"] == "2"
    assert "k" not in text.split()


def test_a_cuda_engine_is_compiled_and_sharded() -> None:
    config = EngineConfig(model_dir="m", device="cuda", tensor_parallel_size=2)
    text = " ".join(engine_arguments(config, port=1, base={}))
    assert "--tensor-parallel-size 2" in text
    assert "--enforce-eager" not in text
    assert "--kv-cache-memory-bytes" not in text
    assert "--gpu-memory-utilization 0.9" in text


def test_a_cuda_engine_beside_a_trainer_takes_what_the_plan_gave_it() -> None:
    config = EngineConfig(
        model_dir="m", device="cuda", gpu_memory_utilization=0.25, kv_cache_bytes=1 << 30, eager=True, threads=8
    )
    text = " ".join(engine_arguments(config, port=1, base={}))
    assert "--gpu-memory-utilization 0.25 --kv-cache-memory-bytes 1073741824 --enforce-eager" in text
    seen = {"CUDA_VISIBLE_DEVICES": "3", "OMP_NUM_THREADS": "1"}
    environment = engine_environment(config, secret="k", base=seen)
    assert environment["CUDA_VISIBLE_DEVICES"] == "3", "the one that Ray gave its actor"
    assert environment["OMP_NUM_THREADS"] == "8"
    assert "TORCHDYNAMO_DISABLE" not in environment
    on_cpu = engine_environment(EngineConfig(model_dir="m"), secret="k", base=seen)
    assert on_cpu["CUDA_VISIBLE_DEVICES"] == ""


def test_a_start_may_take_as_long_as_its_weights_are_large() -> None:
    assert start_seconds(0) == 1800
    assert start_seconds(140 * 10**9) == 1800 + 2800, "70 billion parameters, half precision"


def test_an_engine_of_a_checkout_finds_the_plug_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As vLLM asks for it: by entry points, in a process of its own."""
    assert plugin_path.plugin_environment({}, folder=tmp_path / "not") == {}, "here it is installed"
    assert not (tmp_path / "not").exists()
    monkeypatch.setattr(plugin_path, "entry_points", lambda **_: ())
    made = plugin_path.plugin_environment({"PYTHONPATH": "/checkout/workers"}, folder=tmp_path)
    assert made == {"PYTHONPATH": f"{tmp_path}:/checkout/workers"}
    ask = "from importlib.metadata import entry_points as found; print(*(p.value for p in found(group=sys.argv[2])))"
    code = f"import sys; sys.path.insert(0, sys.argv[1]); {ask}"
    argv = [sys.executable, "-I", "-S", "-c", code, str(tmp_path), plugin_path.GROUP]
    said = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    assert said.split() == ["toolorchestra.engines.vllm_plugin:register"]
    (project,) = (Path(__file__).parents[3] / "pyproject.toml").read_text().split('"vllm.general_plugins"]')[1:]
    assert project.splitlines()[1] == f'{plugin_path.NAME} = "{plugin_path.TARGET}"'


@pytest.mark.parametrize(
    ("environ", "endpoint"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, None),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, None),
        ({"OTEL_TRACES_EXPORTER": "otlp", "TOOLORCHESTRA_SPANS": "off"}, None),
        ({"OTEL_TRACES_EXPORTER": "jsonl,otlp"}, "http://localhost:4318/v1/traces"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318/"}, "http://c:4318/v1/traces"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://c/t"}, "http://c/t"),
    ],
)
def test_an_engine_sends_its_spans_where_the_process_that_starts_it_does(
    environ: dict[str, str], endpoint: str | None
) -> None:
    arguments = engine_arguments(EngineConfig(model_dir="m"), port=1, base=environ)
    said = arguments[arguments.index("--otlp-traces-endpoint") + 1] if "--otlp-traces-endpoint" in arguments else None
    assert said == endpoint


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_variable_of_vllm_is_one_that_it_reads(device: Literal["cpu", "cuda"]) -> None:
    """One that it does not know is a warning in its log, and no effect."""
    from vllm.envs import environment_variables

    made = engine_environment(EngineConfig(model_dir="m", device=device), secret="s", base={})
    own = {name for name in made if name.startswith("VLLM_")}
    assert own
    assert own <= environment_variables.keys()
