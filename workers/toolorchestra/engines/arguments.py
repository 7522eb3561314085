"""vLLM's arguments and environment for a policy engine, as pure functions of its settings."""

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
"""Longer than vLLM's default of 5 s, which breaks the connections of clients that wait for a training step."""


CPU_CACHE_BYTES = 256 << 20
"""Size of the KV cache on a CPU."""
CPU_SEQUENCES, CUDA_SEQUENCES = 128, 256
"""Most sequences that an engine serves at a time. Its KV cache may have room for fewer."""
START_SECONDS = 1800
SLOWEST_BYTES_PER_SECOND = 50_000_000
"""Slowest disk or network from which weights are still awaited."""


def start_seconds(weights: int) -> float:
    """Return the time limit for a start that makes progress, of an engine or trainer with so many bytes of weights."""
    return START_SECONDS + weights / SLOWEST_BYTES_PER_SECOND


@dataclass(frozen=True, kw_only=True)
class EngineConfig:
    """Settings of one vLLM process that serves the policy."""

    model_dir: str
    served_name: str = "policy"
    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    head_float32: bool = False
    """Whether the output head computes in float32, whatever the dtype."""
    host: str = "127.0.0.1"
    port: int = 0
    """0 means any free port."""
    max_model_len: int | None = None
    max_num_seqs: int = CPU_SEQUENCES
    kv_cache_bytes: int | None = None
    """None: on a CPU `CPU_CACHE_BYTES`; on CUDA what is left of vLLM's share when it starts. Set it if a trainer shares
    the GPU: memory that the trainer allocates during the start would otherwise count as the engine's."""
    gpu_memory_utilization: float = 0.9
    """CUDA only: share of the whole GPU's memory."""
    eager: bool = False
    """CUDA only: no compiled code and no CUDA graphs, which take up to a minute at the start. Always so on a CPU."""
    tensor_parallel_size: int = 1
    seed: int = 0
    threads: int = 1
    """OpenMP threads. On a CPU they are not bound to cores, because a trainer shares the cores."""
    start_seconds: float = START_SECONDS
    """Time limit of a start that makes progress."""
    extra_args: tuple[str, ...] = ()


def engine_arguments(config: EngineConfig, *, port: int, base: Mapping[str, str]) -> list[str]:
    """Return the command line. It uses `python -m`, because the `vllm` command does not start with the CPU package.

    `base` is the environment of the starting process: the engine sends its spans to the same address.
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
        *("--generation-config", "vllm"),  # sampling defaults of the model folder must not apply
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
        # Needed even if the cache's bytes are given: vLLM starts only if this share is free.
        arguments += ["--gpu-memory-utilization", str(config.gpu_memory_utilization)]
        if config.kv_cache_bytes is not None:
            arguments += ["--kv-cache-memory-bytes", str(config.kv_cache_bytes)]
        if config.eager:
            arguments += ["--enforce-eager"]
    if (traces := traces_endpoint(base)) is not None:
        arguments += ["--otlp-traces-endpoint", traces]
    return [*arguments, *config.extra_args]


def traces_endpoint(environ: Mapping[str, str]) -> str | None:
    """Return the address for OTLP spans by the standard variables, or None. vLLM needs it complete, with its path."""
    off = environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or environ.get(SPANS_VARIABLE) == "off"
    if off or "otlp" not in environ.get("OTEL_TRACES_EXPORTER", ""):
        return None
    if whole := environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        return whole
    return f"{environ.get('OTEL_EXPORTER_OTLP_ENDPOINT', 'http://localhost:4318').rstrip('/')}/v1/traces"


def engine_environment(config: EngineConfig, *, secret: str, base: Mapping[str, str]) -> dict[str, str]:
    """Return the process's environment: `base` without variables that conflict with our settings, plus ours."""
    environment = dict(base)
    environment.pop("VLLM_CPU_KVCACHE_SPACE", None)  # an empty value breaks the start; the size is an argument
    environment |= {
        SECRET_ENV: secret,
        "HF_HUB_OFFLINE": "1",
        "VLLM_SERVER_DEV_MODE": "1",  # serves the weight update routes; ControlGuard protects them
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE_SECONDS),
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork would skip the plug-in, and so die_with_parent
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
        "OTEL_SERVICE_NAME": "toolorchestra-policy",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",  # vLLM's own default is gRPC
        "OMP_NUM_THREADS": str(config.threads),  # Ray sets 1 for its actors
    }
    if config.device == "cuda":
        # The policy is sampled without top-k and top-p, so compiling FlashInfer's kernels would be useless.
        environment["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
    if config.device == "cpu":
        environment |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "TORCHDYNAMO_DISABLE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "CUDA_VISIBLE_DEVICES": "",
        }
    return environment
