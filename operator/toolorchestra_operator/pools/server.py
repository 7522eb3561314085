"""How a replica runs vLLM: arguments, environment, probes and draining, as pure functions of the pool.

vLLM's development mode and its usage statistics are off. The API key is in the environment, not in the arguments, which
everyone who may read pods can read.
"""

from __future__ import annotations

import math
import re
from importlib import resources
from typing import Any, Final

from toolorchestra.api.base import SecretKeyRef
from toolorchestra_operator.kubernetes.quantity import amount
from toolorchestra_operator.pools.desired import CACHE_PATH, CREDENTIALS_PATH, Desired
from toolorchestra_operator.pools.names import API_KEY, PORT

CPU_KV_CACHE_BYTES: Final = 256 << 20
KEEP_ALIVE_SECONDS: Final = 600
"""By default vLLM closes idle connections after 5 s, while clients still want to use them."""
START_SECONDS: Final = 600
"""Seconds of a start without its weights: imports, compilation, graph capture."""
SECONDS_PER_BILLION: Final = 40
"""10⁹ parameters are 2 GB in 16 bits, downloaded at 50 MB/s."""
UNKNOWN_BILLIONS: Final = 70.0
READY_PERIOD_SECONDS: Final = 10
DRAIN_MARGIN_SECONDS: Final = 30
"""Seconds between the end of draining and SIGKILL."""

_PARAMETERS: Final = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([bBmM])(?![A-Za-z0-9])")


def arguments(desired: Desired) -> list[str]:
    """Return the command line. `python3 -m`: the `vllm` command does not start with the CPU package."""
    vllm = desired.vllm
    found = [
        *("python3", "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", desired.model),
        *("--served-model-name", desired.served_model),
        *("--host", "0.0.0.0", "--port", str(PORT)),
        *("--tensor-parallel-size", str(vllm.tensor_parallel_size)),
    ]
    if vllm.model.revision is not None and desired.scheme == "hf":
        found += ["--revision", vllm.model.revision]
    if vllm.max_model_len is not None:
        found += ["--max-model-len", str(vllm.max_model_len)]
    if desired.scheme == "s3":
        found += ["--load-format", "runai_streamer"]
    if not desired.on_gpu:
        found += ["--enforce-eager", "--distributed-executor-backend", "uni"]
        found += ["--kv-cache-memory-bytes", str(CPU_KV_CACHE_BYTES)]
    if desired.runtime.otlp_endpoint:
        found += ["--otlp-traces-endpoint", f"{desired.runtime.otlp_endpoint.rstrip('/')}/v1/traces"]
    return [*found, *vllm.extra_args]  # of repeated flags, vLLM uses the last


def environment(desired: Desired) -> list[dict[str, Any]]:
    """Return the container's environment variables."""
    plain = {
        "HOME": "/tmp",
        "HF_HOME": f"{CACHE_PATH}/huggingface",
        "VLLM_CACHE_ROOT": f"{CACHE_PATH}/vllm",
        "TRITON_CACHE_DIR": f"{CACHE_PATH}/triton",
        "VLLM_SERVER_DEV_MODE": "0",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(KEEP_ALIVE_SECONDS),
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if desired.scheme != "hf":
        plain["HF_HUB_OFFLINE"] = "1"
    if not desired.on_gpu:
        plain |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "TORCHDYNAMO_DISABLE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "OMP_NUM_THREADS": str(_threads(desired)),
        }
    if desired.runtime.otlp_endpoint:
        names = desired.names
        plain |= {
            "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
            "OTEL_SERVICE_NAME": "toolorchestra-expert",
            "OTEL_RESOURCE_ATTRIBUTES": f"k8s.namespace.name={names.namespace},toolorchestra.pool.name={names.name}",
        }
    found: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in plain.items()]
    found.append(_secret("VLLM_API_KEY", SecretKeyRef(name=desired.names.api_key, key=API_KEY)))
    token = desired.vllm.model.token_secret_ref
    if token is not None and desired.scheme == "hf":
        found.append(_secret("HF_TOKEN", token))
    if token is not None and desired.scheme == "s3":
        found.append({"name": "AWS_SHARED_CREDENTIALS_FILE", "value": f"{CREDENTIALS_PATH}/{token.key}"})
    return found


def _secret(name: str, reference: SecretKeyRef) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": reference.name, "key": reference.key}}}


def _threads(desired: Desired) -> int:
    limit = desired.vllm.resources.limits.get("cpu")
    return desired.runtime.cpu_threads if limit is None else max(1, math.floor(amount(limit)))


def start_seconds(uri: str) -> int:
    """Return how long a start may take: 600 s, and 40 s for each 10⁹ parameters in the model's name (`…-32B`, `135M`).

    Unknown size: as for 70·10⁹. Only a start that hangs takes that long: one that fails ends by itself.
    """
    sizes = [float(number) / (1000 if unit in "mM" else 1) for number, unit in _PARAMETERS.findall(uri)]
    return START_SECONDS + math.ceil(SECONDS_PER_BILLION * max(sizes, default=UNKNOWN_BILLIONS))


def probes(desired: Desired) -> dict[str, Any]:
    """Return the probes. Startup and liveness: /health, without a key. Readiness: a program that has the key."""
    health = {"httpGet": {"path": "/health", "port": "http"}}
    failures = math.ceil(start_seconds(desired.vllm.model.uri) / 10)
    return {
        "startupProbe": {**health, "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": failures},
        "livenessProbe": {**health, "periodSeconds": 10, "timeoutSeconds": 10, "failureThreshold": 6},
        "readinessProbe": {
            "exec": {"command": _program("ready", desired.served_model)},
            "periodSeconds": READY_PERIOD_SECONDS,
            "timeoutSeconds": 10,
            "failureThreshold": 3,
        },
    }


def lifecycle(desired: Desired) -> dict[str, Any]:
    """Return the hooks: draining before SIGTERM, at which vLLM drops its requests."""
    seconds = desired.vllm.drain_seconds
    if not seconds:
        return {}
    return {"preStop": {"exec": {"command": _program("drain", str(seconds))}}}


def _program(name: str, *arguments: str) -> list[str]:
    """Return a command that needs only Python in the image."""
    source = resources.files("toolorchestra_operator.pools.in_pod").joinpath(f"{name}.py").read_text(encoding="utf-8")
    return ["python3", "-I", "-c", source, f"http://127.0.0.1:{PORT}", *arguments]
