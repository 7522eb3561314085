"""vLLM's plug-in entry point: registers our weight transfer engine. Every vLLM process loads it, so it must be small.

It also ties the processes of our engines together: vLLM's engine core survives a killed API server, and would keep its
memory and cores for ever.
"""

from __future__ import annotations

import ctypes
import os
import signal

from toolorchestra.engines.middleware import SECRET_ENV

BACKEND = "toolorchestra_snapshot"
PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Ask the kernel to send SIGKILL when the *thread* that started this process ends (Linux)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def register() -> None:
    """Register the backend once. vLLM may call this several times in a process."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if SECRET_ENV in os.environ:
        die_with_parent()
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, "toolorchestra.weights.transfer", "SnapshotTransferEngine")
