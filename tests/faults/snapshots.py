"""Which weights trainers write: a manifest for scripted engines, real ones for real engines."""

from __future__ import annotations

from pathlib import Path

from faults.trainers import SnapshotWriter, manifest_snapshot
from toolorchestra.train.weights import Snapshot, folder_keys, write_snapshot


def writer_of(model: Path) -> SnapshotWriter:
    """A model folder's own weights under every version; a manifest alone where there is no model."""
    if not list(model.glob("*.safetensors")):
        return manifest_snapshot

    def write(folder: Path, version: str) -> Snapshot:
        from safetensors.torch import load_file

        tensors = {name: tensor for file in model.glob("*.safetensors") for name, tensor in load_file(file).items()}
        want = folder_keys(model)
        return write_snapshot(folder, {name: tensors[name] for name in want}, version=version, want=want)

    return write
