"""The numbers of a model folder that memory and work are reckoned from. No torch: two small reads of headers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from toolorchestra.policy.model_file import ModelFileError, read_object
from toolorchestra.train.weights import KeySet, SnapshotError, read_header

CONFIG: Final = "config.json"
_INNER: Final = ("text_config", "language_config", "llm_config", "thinker_config")
"""Where folders that hold more than a language model keep its settings."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A decoder's sizes. `intermediate` of a mixture of experts: of all experts that one token meets."""

    parameters: int
    layers: int
    hidden: int
    intermediate: int
    vocabulary: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool
    """Embedding and head are one tensor."""
    query_key_norm: bool = False
    """Queries and keys are normed one by one, as Qwen3 does."""
    capped: bool = False
    """The logits are capped, as Gemma 2 does."""
    note: str = ""
    """What of it is a guess, in words."""

    @property
    def root(self) -> int:
        """Parameters outside the blocks: embedding, head and last norm."""
        return min(self.parameters, self.vocabulary * self.hidden * (1 if self.tied else 2) + self.hidden)

    @property
    def block(self) -> int:
        """Parameters of one block, all being alike."""
        return -(-(self.parameters - self.root) // self.layers)


def _qwen3(layers: int, hidden: int, intermediate: int, heads: int, *, tied: bool) -> ModelShape:
    """All of them have 8 heads of keys and values, of 128 each, and one vocabulary."""
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
"""As published (config.json of Qwen/Qwen3-… on Hugging Face), for models that are named and not here."""


def parameters_of(folder: Path) -> int | None:
    """All parameters of a folder's weights, from the headers alone; None where it has none."""
    shapes = _shapes(folder)
    return sum(math.prod(shape) for shape in shapes.values()) if shapes else None


def shape_of(folder: Path) -> ModelShape:
    """Of a Hugging Face folder. ModelFileError where a file cannot be read or does not tell a size."""
    file = folder / CONFIG
    if not file.is_file():
        raise ModelFileError(f"{folder}: no {CONFIG} there: not a model folder")
    settings = _language(read_object(file))
    shapes = _shapes(folder)
    if not shapes:
        raise ModelFileError(f"{folder}: no *.safetensors, the weights; save_pretrained writes them")

    def number(*names: str, default: int | None = None) -> int:
        for name in names:
            if isinstance(value := settings.get(name), int) and not isinstance(value, bool) and value > 0:
                return value
        if default is None:
            raise ModelFileError(f"{file}: no {names[0]} in it")
        return default

    hidden = number("hidden_size", "n_embd", "d_model")
    heads = number("num_attention_heads", "n_head", "num_heads")
    vocabulary = number("vocab_size")
    wide, notes = number("intermediate_size", "n_inner", "ffn_dim", default=4 * hidden), []
    if chosen := number("num_experts_per_tok", "moe_top_k", "num_experts_per_token", default=0):
        each = number("moe_intermediate_size", default=wide)
        wide = chosen * each + number("shared_expert_intermediate_size", default=0)
        wide += number("n_shared_experts", default=0) * each
        notes.append(f"activations of a mixture of experts are reckoned as those of the {chosen} that a token meets")
    parameters = sum(math.prod(shape) for shape in shapes.values())
    heads_there = [shape for name, shape in shapes.items() if name.endswith("lm_head.weight")]
    tied = settings.get("tie_word_embeddings")
    if not isinstance(tied, bool):
        tied = not heads_there
    if tied:  # some writers put it there all the same
        parameters -= sum(math.prod(shape) for shape in heads_there)
    return ModelShape(
        parameters=parameters,
        layers=number("num_hidden_layers", "n_layer", "num_layers"),
        hidden=hidden,
        intermediate=wide,
        vocabulary=vocabulary,
        heads=heads,
        kv_heads=number("num_key_value_heads", "num_kv_heads", default=heads),
        head_dim=number("head_dim", default=max(1, hidden // heads)),
        tied=tied,
        query_key_norm=any("q_norm" in name for name in shapes),
        capped=bool(settings.get("final_logit_softcapping")),
        note="; ".join(notes),
    )


def _shapes(folder: Path) -> KeySet:
    shapes: KeySet = {}
    try:
        for file in sorted(folder.glob("*.safetensors")):
            shapes |= read_header(file)
    except (SnapshotError, OSError) as error:
        raise ModelFileError(str(error)) from error
    return shapes


def _language(settings: dict[str, Any]) -> dict[str, Any]:
    """Those of the language model."""
    for name in _INNER:
        if isinstance(inner := settings.get(name), dict):
            return _language(inner)
    return settings
