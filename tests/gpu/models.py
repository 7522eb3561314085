"""Random models in Qwen3's published shapes, written as Hugging Face folders in seconds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gpu.identity import ROOT

TOKENIZER = ROOT / "examples/demo/base"
"""Any will do: token ids go in and come out."""
SPREAD = 0.02
"""Standard deviation of the weights, Qwen's initializer_range."""
FINAL_NORM = 4.0
"""Gain of the last norm: with 1, a random head's logits are nearly equal (standard deviation 0.9 at 2,048); with 4 they
are as far apart as a trained model's."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What a Qwen3 is, as its config.json says it."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int = 151_936
    tied: bool = True

    def tensors(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        """Names and shapes of all weights; the vectors among them are gains of norms."""
        query, value = self.heads * self.head_dim, self.kv_heads * self.head_dim
        yield "model.embed_tokens.weight", (self.vocabulary, self.hidden)
        for layer in range(self.layers):
            at = f"model.layers.{layer}"
            yield f"{at}.self_attn.q_proj.weight", (query, self.hidden)
            yield f"{at}.self_attn.k_proj.weight", (value, self.hidden)
            yield f"{at}.self_attn.v_proj.weight", (value, self.hidden)
            yield f"{at}.self_attn.o_proj.weight", (self.hidden, query)
            yield f"{at}.self_attn.q_norm.weight", (self.head_dim,)
            yield f"{at}.self_attn.k_norm.weight", (self.head_dim,)
            yield f"{at}.mlp.gate_proj.weight", (self.intermediate, self.hidden)
            yield f"{at}.mlp.up_proj.weight", (self.intermediate, self.hidden)
            yield f"{at}.mlp.down_proj.weight", (self.hidden, self.intermediate)
            yield f"{at}.input_layernorm.weight", (self.hidden,)
            yield f"{at}.post_attention_layernorm.weight", (self.hidden,)
        yield "model.norm.weight", (self.hidden,)
        if not self.tied:
            yield "lm_head.weight", (self.vocabulary, self.hidden)

    def config(self) -> dict[str, object]:
        """config.json."""
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "attention_bias": False,
            "attention_dropout": 0.0,
            "bos_token_id": None,
            "dtype": "bfloat16",
            "eos_token_id": 2,
            "head_dim": self.head_dim,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": SPREAD,
            "intermediate_size": self.intermediate,
            "max_position_embeddings": 40_960,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_theta": 1_000_000.0, "rope_type": "default"},
            "tie_word_embeddings": self.tied,
            "use_cache": True,
            "use_sliding_window": False,
            "vocab_size": self.vocabulary,
        }


TINY = Shape(hidden=64, layers=2, intermediate=128, heads=4, kv_heads=2, head_dim=32, vocabulary=1168)
SHAPES = {
    "0.6B": Shape(hidden=1024, layers=28, intermediate=3072, heads=16, kv_heads=8, head_dim=128),
    "1.7B": Shape(hidden=2048, layers=28, intermediate=6144, heads=16, kv_heads=8, head_dim=128),
    "4B": Shape(hidden=2560, layers=36, intermediate=9728, heads=32, kv_heads=8, head_dim=128),
}


def write_model(
    folder: Path,
    shape: Shape,
    *,
    device: str,
    dtype: torch.dtype = torch.bfloat16,
    spread: float = SPREAD,
    seed: int = 0,
) -> Path:
    """Draw the weights on `device` and write the folder; returns it."""
    from safetensors.torch import save_file

    generator = torch.Generator(device).manual_seed(seed)

    def drawn(name: str, size: tuple[int, ...]) -> Tensor:
        if len(size) == 1:
            return torch.full(size, FINAL_NORM if name == "model.norm.weight" else 1.0, dtype=dtype)
        return (torch.randn(size, generator=generator, device=device) * spread).to(dtype).cpu()

    folder.mkdir(parents=True)
    save_file(
        {name: drawn(name, size) for name, size in shape.tensors()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(TOKENIZER / file, folder / file)
    (folder / "config.json").write_text(json.dumps(shape.config() | {"dtype": str(dtype).removeprefix("torch.")}))
    return folder
