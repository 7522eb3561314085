"""vLLM's plug-in entry point: registers our weight transfer engine. Loaded in every vLLM process, so it stays light."""

from __future__ import annotations

BACKEND = "toolorchestra_snapshot"


def register() -> None:
    """Register the backend once; vLLM may call this several times in a process."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(
            BACKEND, "toolorchestra.train.snapshot_transfer", "SnapshotTransferEngine"
        )
