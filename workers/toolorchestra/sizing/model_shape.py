"""Reads from a model folder the numbers that decide memory and work: two small reads of headers.

Torch is loaded only if `config.json` omits values that are defaults of its model family; transformers knows those.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from toolorchestra.policy.model_file import ModelFileError, read_object
from toolorchestra.trainer.model_settings import language_settings, read_settings
from toolorchestra.weights.snapshot import KeySet, SnapshotError, read_header

CONFIG: Final = "config.json"
_INNER: Final = ("text_config", "language_config", "llm_config", "thinker_config")
"""Keys of the language model's settings, in folders that contain more than a language model."""
_HIDDEN: Final = ("hidden_size", "n_embd", "d_model")
_LAYERS: Final = ("num_hidden_layers", "n_layer", "num_layers")
_HEADS: Final = ("num_attention_heads", "n_head", "num_heads")
_VOCABULARY: Final = ("vocab_size",)


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """The sizes of a decoder. `intermediate` of a mixture of experts counts all experts that one token uses."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool
    """Whether embedding and head are one tensor."""
    query_key_norm: bool = False
    """Whether queries and keys are normalised separately, as in Qwen3."""
    capped: bool = False
    """Whether the logits are capped, as in Gemma 2."""
    note: str = ""
    """Estimates in these numbers, as text."""

    @property
    def root(self) -> int:
        """Number of parameters outside the blocks: embedding, head and last norm."""
        return min(self.parameters, self.vocabulary * self.hidden * (1 if self.tied else 2) + self.hidden)

    @property
    def block(self) -> int:
        """Number of parameters of one block; all blocks are alike."""
        return -(-(self.parameters - self.root) // self.layers)

    def splits(self, over: int) -> bool:
        """Return whether vLLM can split the heads over so many GPUs: evenly; heads of keys and values may be copied."""
        return self.heads % over == 0 and (self.kv_heads % over == 0 or over % self.kv_heads == 0)


def _qwen3(layers: int, hidden: int, intermediate: int, heads: int, *, tied: bool) -> ModelShape:
    """Return a Qwen3 model's shape. All have 8 heads of keys and values of size 128, and the same vocabulary."""
    vocabulary, kv_heads, head_dim = 151_936, 8, 128
    attention = 2 * hidden * (heads + kv_heads) * head_dim + 2 * head_dim
    block = attention + 3 * hidden * intermediate + 2 * hidden
    return ModelShape(
        parameters=layers * block + vocabulary * hidden * (1 if tied else 2) + hidden,
        layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        vocabulary=vocabulary,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        tied=tied,
        query_key_norm=True,
    )


QWEN3: Final = {
    "0.6B": _qwen3(28, 1024, 3072, 16, tied=True),
    "1.7B": _qwen3(28, 2048, 6144, 16, tied=True),
    "4B": _qwen3(36, 2560, 9728, 32, tied=True),
    "8B": _qwen3(36, 4096, 12288, 32, tied=False),
    "14B": _qwen3(40, 5120, 17408, 40, tied=False),
    "32B": _qwen3(64, 5120, 25600, 64, tied=False),
}
"""Shapes as published (config.json of Qwen/Qwen3-… on Hugging Face), for models that are named but not present."""


def parameters_of(folder: Path) -> int | None:
    """Return the number of parameters in a folder's weights, from the headers only; None if there are none."""
    shapes = _shapes(folder)
    return sum(math.prod(shape) for shape in shapes.values()) if shapes else None


def shape_of(folder: Path) -> ModelShape:
    """Return the shape of the model in a Hugging Face folder. ModelFileError if a file is unreadable or incomplete."""
    file = folder / CONFIG
    if not file.is_file():
        raise ModelFileError(f"{folder}: no {CONFIG} there: not a model folder")
    whole = read_object(file)
    settings = _language(whole)
    shapes = _shapes(folder)
    if not shapes:
        raise ModelFileError(f"{folder}: no weights (*.safetensors); save_pretrained writes them")
    if not all(any(name in settings for name in names) for names in (_HIDDEN, _LAYERS, _HEADS, _VOCABULARY)):
        settings = _of_family(folder) | settings
    read = _Numbers(file, settings)
    number, notes = read.number, read.notes
    hidden, heads, vocabulary = number(*_HIDDEN), number(*_HEADS), number(*_VOCABULARY)
    wide = number("intermediate_size", "n_inner", "ffn_dim", default=4 * hidden)
    queries, keys = (_rows(shapes, f"{name}_proj.weight", hidden) for name in "qk")
    head_dim = number("head_dim", default=max(1, (queries or hidden) // heads))
    kv_heads = number("num_key_value_heads", "num_kv_heads", default=max(1, keys // head_dim) if keys else heads)
    if chosen := number("num_experts_per_tok", "moe_top_k", "num_experts_per_token", default=0):
        each = number("moe_intermediate_size", default=wide)
        wide = chosen * each + number("shared_expert_intermediate_size", default=0)
        wide += number("n_shared_experts", default=0) * each
        notes.append(f"activations of a mixture of experts are estimated from the {chosen} experts that a token uses")
    parameters = sum(math.prod(shape) for shape in shapes.values())
    heads_there = [shape for name, shape in shapes.items() if name.endswith("lm_head.weight")]
    tied = settings.get("tie_word_embeddings", whole.get("tie_word_embeddings"))
    if not isinstance(tied, bool):
        tied = not heads_there
    if tied:  # some programs write the head anyway
        parameters -= sum(math.prod(shape) for shape in heads_there)
    return ModelShape(
        parameters=parameters,
        layers=number(*_LAYERS),
        hidden=hidden,
        intermediate=wide,
        vocabulary=vocabulary,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        tied=tied,
        query_key_norm=any("q_norm" in name for name in shapes),
        capped=bool(settings.get("final_logit_softcapping")),
        note="; ".join(notes),
    )


@dataclass(frozen=True)
class _Numbers:
    """The sizes in a `config.json`. `notes` has the estimates."""

    file: Path
    settings: Mapping[str, Any]
    notes: list[str] = field(default_factory=list[str])

    def number(self, *names: str, default: int | None = None) -> int:
        """Return the first of these fields that exists. ModelFileError if it is no size, or if none exists."""
        for name in names:
            value = self.settings.get(name)
            if value is None or (value == default and not isinstance(value, bool)):
                continue
            if isinstance(value, list) and value and all(map(_is_size, value)):
                self.notes.append(f"its layers differ in {name}: all are counted as the largest")
                return int(max(value))
            if not _is_size(value):
                said = json.dumps(value)
                raise ModelFileError(f"{self.file}: {name} is {said[:40]}: want a whole number above 0")
            return int(value)
        if default is None:
            raise ModelFileError(f"{self.file}: no {names[0]} in it")
        return default


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _of_family(folder: Path) -> dict[str, Any]:
    """Return the settings that a file omits (as Gemma 3's does), from transformers; empty for an unknown family."""
    try:
        found: dict[str, Any] = language_settings(read_settings(folder)).to_dict()
    except ModelFileError:
        return {}
    return found


def _rows(shapes: KeySet, name: str, columns: int) -> int:
    """Return the rows of the first matrix with that name and width; 0 if there is none."""
    return next((s[0] for key, s in shapes.items() if key.endswith(name) and len(s) == 2 and s[1] == columns), 0)


def _shapes(folder: Path) -> KeySet:
    shapes: KeySet = {}
    try:
        for file in sorted(folder.glob("*.safetensors")):
            shapes |= read_header(file)
    except (SnapshotError, OSError) as error:
        raise ModelFileError(str(error)) from error
    return shapes


def _language(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of the language model."""
    for name in _INNER:
        if isinstance(inner := settings.get(name), dict):
            return _language(inner)
    return settings
