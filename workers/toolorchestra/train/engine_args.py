"""How a policy engine is started: vLLM's arguments and environment, as pure functions of its settings."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from toolorchestra.telemetry.groups import SPANS_VARIABLE
from toolorchestra.train.engine_middleware import SECRET_ENV
from toolorchestra.train.vllm_plugin import BACKEND

KEEP_ALIVE_SECONDS = 600
"""vLLM closes idle connections after 5 s by default, which breaks clients that wait for a training step."""


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """One vLLM process that serves the policy."""

    model_dir: str
    served_name: str = "policy"
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    host: str = "127.0.0.1"
    port: int = 0
    """0: any free port."""
    max_model_len: int | None = None
    max_num_seqs: int = 128
    kv_cache_bytes: int = 256 << 20
    """CPU only; on CUDA vLLM takes its share of the memory (`gpu_memory_utilization`)."""
    gpu_memory_utilization: float = 0.9
    tensor_parallel_size: int = 1
    seed: int = 0
    threads: int = 1
    """CPU only: OpenMP threads; not bound to cores, because a trainer shares them."""
    start_seconds: float = 1800.0
    """Most that a start may take while it gets on."""
    extra_args: tuple[str, ...] = ()


def engine_arguments(config: EngineConfig, *, port: int, base: Mapping[str, str]) -> list[str]:
    """The command line. `python -m`: the `vllm` command does not start with the CPU package.

    `base` is the environment of whoever starts it: the engine sends its spans where that process sends its own.
    """
    arguments = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", config.model_dir),
        *("--served-model-name", config.served_name),
        *("--host", config.host),
        *("--port", str(port)),
        *("--dtype", config.dtype),
        *("--seed", str(config.seed)),
        *("--max-num-seqs", str(config.max_num_seqs)),
        *("--generation-config", "vllm"),  # the model folder must not change sampling behind the trainer's back
        "--enable-scale-out",  # serves /inference/v1/generate: tokens in, tokens out
        "--enable-prefix-caching",
        *("--middleware", "toolorchestra.train.engine_middleware.ControlGuard"),
        *("--weight-transfer-config", json.dumps({"backend": BACKEND})),
        "--disable-uvicorn-access-log",
    ]
    if config.max_model_len is not None:
        arguments += ["--max-model-len", str(config.max_model_len)]
    if config.device == "cpu":
        arguments += ["--enforce-eager", "--distributed-executor-backend", "uni"]
        arguments += ["--kv-cache-memory-bytes", str(config.kv_cache_bytes)]
    else:
        arguments += ["--tensor-parallel-size", str(config.tensor_parallel_size)]
        arguments += ["--gpu-memory-utilization", str(config.gpu_memory_utilization)]
    if (traces := traces_endpoint(base)) is not None:
        arguments += ["--otlp-traces-endpoint", traces]
    return [*arguments, *config.extra_args]


def traces_endpoint(environ: Mapping[str, str]) -> str | None:
    """Where OTLP spans go by the standard variables; None: nowhere. vLLM takes the whole address, with its path."""
    off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get(SPANS_VARIABLE) == "off"
    if off or "otlp" not in environ.get("OTEL_TRACES_EXPORTER", ""):
        return None
    if whole := environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        return whole
    return f"{environ.get('OTEL_EXPORTER_OTLP_ENDPOINT', 'http://localhost:4318').rstrip('/')}/v1/traces"


def engine_environment(config: EngineConfig, *, secret: str, base: Mapping[str, str]) -> dict[str, str]:
    """The process's environment: `base` without what would fight our settings, plus those settings."""
    environment = dict(base)
    environment.pop("VLLM_CPU_KVCACHE_SPACE", None)  # an empty one kills the start; the bytes are an argument
    environment |= {
        SECRET_ENV: secret,
        "HF_HUB_OFFLINE": "1",
        "VLLM_SERVER_DEV_MODE": "1",  # serves the weight update routes; ControlGuard guards them
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE_SECONDS),
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork would skip the plug-in, and with it die_with_parent
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
        "OTEL_SERVICE_NAME": "toolorchestra-policy",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",  # vLLM's own default is gRPC
    }
    if config.device == "cpu":
        environment |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "TORCHDYNAMO_DISABLE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(config.threads),
            "CUDA_VISIBLE_DEVICES": "",
        }
    return environment
