"""vLLM's side of a weight update: loads a snapshot through vLLM's transfer protocol. Runs inside vLLM.

The file is read directly onto the engine's device. So one code path serves CPU and CUDA engines, on the trainers' node
or on a shared file system. Every tensor-parallel rank reads the whole file and keeps its shard.

Invariant: the model is not changed before the snapshot's content and key set are known to be right, so a bad snapshot
leaves the old weights in place. (Therefore vLLM's `start` does nothing here: it does not know the file yet.) The engine
is paused during the update, so its content is normally not read again: the driver of the update, on this machine, has
just checked it, and the file's mark proves that the file is unchanged. If the mark differs, it is read and checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from toolorchestra.weights.reader import read_tensors
from toolorchestra.weights.snapshot import KeySet, Snapshot, folder_keys, verify

if TYPE_CHECKING:
    from torch import nn


@dataclass
class SnapshotInitInfo(WeightTransferInitInfo):  # type: ignore[misc]
    """Empty: there is nothing to agree on, because a snapshot names its own file."""


@dataclass
class SnapshotUpdateInfo(WeightTransferUpdateInfo):  # type: ignore[misc]
    """The fields of `weights.Snapshot`."""

    path: str
    version: str
    digest: str
    mark: str


def refresh_tied_head(model: nn.Module, *, is_tied: bool) -> None:
    """Rebuild the packed copy of a tied head: a reload of the embedding does not update it."""
    head: Any = getattr(model, "lm_head", None)
    if is_tied and hasattr(head, "quant_method"):
        head.quant_method.process_weights_after_loading(head)


class SnapshotTransferEngine(WeightTransferEngine):  # type: ignore[misc]
    """The transfer: `start` does nothing, `receive` checks and loads, `finish` finalizes and refreshes a tied head."""

    init_info_cls = SnapshotInitInfo
    update_info_cls = SnapshotUpdateInfo

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._keys: KeySet | None = None
        self._reloading = False

    def init_transfer_engine(self, init_info: SnapshotInitInfo) -> None:
        """Read the model's key set from the folder that vLLM was started with."""
        self._keys = folder_keys(Path(self.model_config.model))

    def start_weight_update(self) -> None:
        """Do nothing (see the module's invariant)."""

    def receive_weights(self, update_info: SnapshotUpdateInfo) -> None:
        """Check and load a snapshot. SnapshotError: the model is unchanged."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        snapshot = Snapshot(update_info.path, update_info.version, update_info.digest, update_info.mark)
        verify(snapshot, want=self._keys)
        if self._reloading:  # an earlier load failed half-way: close it, or its tensors would be counted twice
            self._finalize()
        initialize_layerwise_reload(self.model)
        self._reloading = True
        self.model.load_weights(read_tensors(snapshot.file, device=torch.device(self.device)))

    def finish_weight_update(self) -> None:
        """Put the loaded weights in place."""
        self._finalize()

    def _finalize(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)
        self._reloading = False
        refresh_tied_head(self.model, is_tied=bool(getattr(self.model_config.hf_config, "tie_word_embeddings", False)))

    def shutdown(self) -> None:
        """Do nothing: no resource is held."""
