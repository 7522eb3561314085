"""Which weights trainers write: a manifest for scripted engines, real ones for real engines."""

from __future__ import annotations

from pathlib import Path

from faults.trainers import SnapshotWriter, manifest_snapshot
from toolorchestra.weights.snapshot import Snapshot, folder_keys


def writer_of(model: Path) -> SnapshotWriter:
    """A model folder's own weights under every version; a manifest alone where there is no model."""
    if not list(model.glob("*.safetensors")):
        return manifest_snapshot

    def write(folder: Path, version: str) -> Snapshot:
        from safetensors.torch import load_file

        from toolorchestra.weights.writer import write_snapshot

        tensors = {name: tensor for file in model.glob("*.safetensors") for name, tensor in load_file(file).items()}
        keys = folder_keys(model)
        ordered = ((name, tensors[name]) for name in keys)
        dtype = next(iter(tensors.values())).dtype
        return write_snapshot(folder, ordered, version=version, keys=keys, dtype=dtype)

    return write
