"""The export: a Hugging Face folder (config, tokenizer, chat template, safetensors) that transformers and vLLM load."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from huggingface_hub import save_torch_state_dict
from torch import Tensor

from toolorchestra.weights.snapshot import check_keys, folder_keys

WEIGHT_SUFFIXES = (".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".gguf", ".pt", ".pth")
MAX_SHARD = "5GB"


def export_folder(folder: Path, tensors: Mapping[str, Tensor], *, model_dir: Path, dtype: str) -> Path:
    """Write whole CPU tensors, and all files of `model_dir` except weights, as `folder`. Atomic; replaces the folder.

    SnapshotError if the tensors are not exactly the model's.
    """
    want = folder_keys(model_dir)
    check_keys({name: tuple(tensor.shape) for name, tensor in tensors.items()}, want, what="export")
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for source in model_dir.iterdir():
        if source.is_file() and not source.name.startswith(".") and not source.name.endswith(WEIGHT_SUFFIXES):
            shutil.copyfile(source, partial / source.name)
    config = json.loads((model_dir / "config.json").read_text())
    config.pop("torch_dtype", None)  # the old name of dtype
    (partial / "config.json").write_text(json.dumps(config | {"dtype": dtype}, indent=2) + "\n")
    save_torch_state_dict(dict(tensors), partial, max_shard_size=MAX_SHARD, metadata={"format": "pt"})
    check_keys(folder_keys(partial), want, what="export")
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    return folder
