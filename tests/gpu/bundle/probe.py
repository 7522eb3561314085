"""Run by the target's Python with env.sh's settings: imports what gpu-check needs, and starts what can be started.

    python probe.py [--driver]

--driver: there is a libcuda.so.1, so that vLLM's GPU libraries must load as well. One line for each thing tried; ends
with 1 where one failed.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from importlib.metadata import entry_points

MODULES = [
    "vllm",
    "vllm.entrypoints.openai.api_server",
    "vllm.v1.engine.core",
    "vllm.v1.engine.async_llm",
    "vllm.v1.worker.gpu_worker",
    "vllm.v1.worker.gpu_model_runner",
    "vllm.v1.attention.backends.triton_attn",
    "vllm.v1.sample.sampler",
    "vllm.v1.structured_output",
    "vllm.compilation.backends",
    "vllm.distributed.weight_transfer.factory",
    "vllm.model_executor.model_loader.reload",
    "vllm.model_executor.models.llama",
    "vllm.model_executor.models.qwen3",
    "vllm.vllm_flash_attn.flash_attn_interface",
    "ray",
    "ray.dashboard.agent",
    "liger_kernel.ops",
    "liger_kernel.transformers",
    "nats",
    "opentelemetry.sdk",
    "opentelemetry.exporter.otlp.proto.http",
    "reasoning_gym",
    "zstandard",
    "toolorchestra.cli.main",
    "toolorchestra.cli.train",
    "toolorchestra.local.supervisor",
    "toolorchestra.rollout.worker",
    "toolorchestra.controller.driver",
    "toolorchestra.engines.server",
    "toolorchestra.weights.transfer",
    "toolorchestra.trainer.trainer",
    "gpu.check",
]
LIBRARIES = (
    "vllm._C_stable_libtorch",
    "vllm.cumem_allocator",
    "vllm.platforms.cuda",
    "vllm.v1.attention.backends.flash_attn",
)


def plug_in() -> None:
    """vLLM finds our plug-in where it looks for it, and its backend is registered."""
    (found,) = [entry for entry in entry_points(group="vllm.general_plugins") if entry.name == "toolorchestra_snapshot"]
    found.load()()
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if "toolorchestra_snapshot" not in WeightTransferEngineFactory._registry:
        raise RuntimeError("the backend is not registered")


def flash_attention() -> None:
    """One of FlashAttention's libraries loads."""
    from vllm.vllm_flash_attn import flash_attn_interface as interface

    if not (interface.FA2_AVAILABLE or interface.FA3_AVAILABLE):
        raise RuntimeError(f"2: {interface.FA2_UNAVAILABLE_REASON}; 3: {interface.FA3_UNAVAILABLE_REASON}")


def nats_server() -> None:
    """The program runs."""
    subprocess.run(["nats-server", "--version"], check=True, capture_output=True)


def orchestra() -> None:
    """The command line starts."""
    subprocess.run(["orchestra", "--help"], check=True, capture_output=True)


def ray_head() -> None:
    """Ray starts a node here, and an actor on it answers."""
    import ray

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    try:
        if ray.get(ray.remote(lambda: 7).remote(), timeout=120) != 7:
            raise RuntimeError("another answer")
    finally:
        ray.shutdown()


def tried(name: str, what: Callable[[], object]) -> bool:
    """Say whether `what` works, and how long it took."""
    start = time.monotonic()
    try:
        what()
    except (Exception, SystemExit) as error:  # modules that are imported may end the process
        frame = traceback.extract_tb(error.__traceback__)[-1]
        print(f"FAILED {name}: {type(error).__name__}: {error} ({frame.filename}:{frame.lineno})", flush=True)
        return False
    print(f"ok {time.monotonic() - start:6.1f} s  {name}", flush=True)
    return True


def main() -> None:
    driver = "--driver" in sys.argv[1:]
    names = [*MODULES, *(LIBRARIES if driver else ())]
    results = [tried(name, lambda name=name: importlib.import_module(name)) for name in names]
    results += [tried(check.__name__, check) for check in (plug_in, nats_server, orchestra, ray_head)]
    if driver:
        results.append(tried("flash_attention", flash_attention))
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
