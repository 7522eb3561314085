"""How a policy engine is started: vLLM's arguments and environment, as pure functions of its settings."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from toolorchestra.engines.middleware import SECRET_ENV
from toolorchestra.engines.vllm_plugin import BACKEND
from toolorchestra.telemetry.groups import SPANS_VARIABLE

KEEP_ALIVE_SECONDS = 600
"""vLLM closes idle connections after 5 s by default, which breaks clients that wait for a training step."""


CPU_CACHE_BYTES = 256 << 20
"""Of the key-value cache."""
CPU_SEQUENCES, CUDA_SEQUENCES = 128, 256
"""Most that an engine serves at a time; its key-value cache may hold fewer."""
START_SECONDS = 1800
SLOWEST_BYTES_PER_SECOND = 50_000_000
"""Of a disk, or a network, that weights are still waited for."""


def start_seconds(weights: int) -> float:
    """Most that the start of an engine, or a trainer, with so many bytes of weights may take while it gets on."""
    return START_SECONDS + weights / SLOWEST_BYTES_PER_SECOND


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """One vLLM process that serves the policy."""

    model_dir: str
    served_name: str = "policy"
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    head_float32: bool = False
    """The output head computes in float32, whatever the dtype."""
    host: str = "127.0.0.1"
    port: int = 0
    """0: any free port."""
    max_model_len: int | None = None
    max_num_seqs: int = CPU_SEQUENCES
    kv_cache_bytes: int | None = None
    """None: on a CPU `CPU_CACHE_BYTES`; on CUDA what vLLM finds to be left of its share when it starts. Where a trainer
    shares the GPU, what that takes meanwhile would count as the engine's own."""
    gpu_memory_utilization: float = 0.9
    """CUDA only: the share of the whole GPU's memory."""
    eager: bool = False
    """CUDA only: without compiled code and CUDA graphs, which cost up to a minute at the start. On a CPU always so."""
    tensor_parallel_size: int = 1
    seed: int = 0
    threads: int = 1
    """OpenMP threads; on a CPU not bound to cores, because a trainer shares them."""
    start_seconds: float = START_SECONDS
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
        *("--middleware", "toolorchestra.engines.middleware.ControlGuard"),
        *("--weight-transfer-config", json.dumps({"backend": BACKEND})),
        "--disable-uvicorn-access-log",
    ]
    if config.head_float32:
        arguments += ["--hf-overrides", json.dumps({"head_dtype": "float32"})]
    if config.max_model_len is not None:
        arguments += ["--max-model-len", str(config.max_model_len)]
    if config.device == "cpu":
        arguments += ["--enforce-eager", "--distributed-executor-backend", "uni"]
        arguments += ["--kv-cache-memory-bytes", str(config.kv_cache_bytes or CPU_CACHE_BYTES)]
    else:
        arguments += ["--tensor-parallel-size", str(config.tensor_parallel_size)]
        # Asked for even where the cache's bytes are given: vLLM starts where so much is free.
        arguments += ["--gpu-memory-utilization", str(config.gpu_memory_utilization)]
        if config.kv_cache_bytes is not None:
            arguments += ["--kv-cache-memory-bytes", str(config.kv_cache_bytes)]
        if config.eager:
            arguments += ["--enforce-eager"]
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
        "OMP_NUM_THREADS": str(config.threads),  # Ray gives its actors one
    }
    if config.device == "cuda":
        # The policy is sampled from all tokens: without top-k and top-p its kernels would be compiled for nothing.
        environment["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
    if config.device == "cpu":
        environment |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "TORCHDYNAMO_DISABLE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "CUDA_VISIBLE_DEVICES": "",
        }
    return environment
