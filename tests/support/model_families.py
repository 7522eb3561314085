"""Decoders that transformers knows, each as a tiny random model, and what the trainer says of them.

`python -m support.model_families` (`make models-table`) writes docs/models.md. The models are random: what is compared
is arithmetic, for which weights need only be large enough that every part of the model shows in its log probabilities.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from toolorchestra.trainer.agreement import FLOAT32, check_agreement, own_values
from toolorchestra.trainer.model import ModelError, load_policy

PAGE = Path(__file__).parent.parent.parent / "docs" / "models.md"

TINY: dict[str, Any] = {
    "vocab_size": 264,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "n_embd": 64,
    "n_layer": 4,
    "n_head": 4,
    "n_positions": 512,
    "d_model": 64,
    "moe_intermediate_size": 48,
    "num_experts": 8,
    "num_local_experts": 8,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "sliding_window": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
"""Of these, a family is given what its settings have. The window is shorter than the documents that are compared."""
LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "head_dim": 8,
}
"""Multi-head latent attention: every head has keys of its own, and values of another width."""
SPREAD = 0.2
"""Standard deviation of what every weight is moved by."""
MIXED = {"layer_types": ["sliding_attention", "full_attention"] * 2}

SPECIAL: dict[str, dict[str, Any]] = {
    "cohere": {"logit_scale": 0.5},
    "cohere2": {"logit_scale": 0.5} | MIXED,
    "exaone4": MIXED,
    "gemma2": {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0} | MIXED,
    "gemma3_text": MIXED,
    "gpt_oss": MIXED,
    "granite": {"logits_scaling": 8.0, "residual_multiplier": 0.5, "embedding_multiplier": 3.0},
    "granitemoe": {"logits_scaling": 8.0},
    "hyperclovax": {"logits_scaling": 0.5},
    "ministral": MIXED,
    "olmo3": MIXED,
    "qwen2": {"use_sliding_window": True, "max_window_layers": 2},
    "qwen3": {"use_sliding_window": True, "max_window_layers": 2},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "bamba": {"attn_layer_indices": [1, 3]},
    "phi3": {"original_max_position_embeddings": 512},
}
"""What else makes a family show what is its own."""

FAMILIES = [
    "afmoe",
    "apertus",
    "arcee",
    "aria_text",
    "bamba",
    "biogpt",
    "bitnet",
    "bloom",
    "codegen",
    "cohere",
    "cohere2",
    "cohere2_moe",
    "cwm",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "deepseek_v4",
    "diffllama",
    "doge",
    "ernie4_5",
    "ernie4_5_moe",
    "exaone4",
    "exaone_moe",
    "falcon_h1",
    "falcon_mamba",
    "flex_olmo",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm",
    "glm4",
    "glm4_moe",
    "glm4_moe_lite",
    "glm_moe_dsa",
    "gpt2",
    "gpt_bigcode",
    "gpt_neox",
    "gpt_oss",
    "gptj",
    "granite",
    "granite_swa",
    "granitemoe",
    "granitemoe_swa",
    "granitemoehybrid",
    "granitemoeshared",
    "helium",
    "hrm_text",
    "hunyuan_v1_dense",
    "hunyuan_v1_moe",
    "hy_v3",
    "hyperclovax",
    "jais2",
    "jamba",
    "jetmoe",
    "laguna",
    "lfm2",
    "llama",
    "llama4_text",
    "longcat_flash",
    "mamba",
    "mimo_v2_flash",
    "minicpm3",
    "minimax",
    "minimax_m2",
    "minimax_m3_vl_text",
    "ministral",
    "ministral3",
    "mistral",
    "mixtral",
    "mpt",
    "nanochat",
    "nemotron",
    "nemotron_h",
    "olmo",
    "olmo2",
    "olmo3",
    "olmo_hybrid",
    "olmoe",
    "opt",
    "persimmon",
    "phi",
    "phi3",
    "phimoe",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_5_moe_text",
    "qwen3_5_text",
    "qwen3_moe",
    "qwen3_next",
    "recurrent_gemma",
    "rwkv",
    "seed_oss",
    "smollm3",
    "solar_open",
    "stablelm",
    "starcoder2",
    "vaultgemma",
    "youtu",
    "zamba",
]
"""Model types, as `config.json` names them."""


@dataclass(frozen=True)
class Verdict:
    """What the trainer says: `nats` is the largest |Δ log p| where it agrees, `refusal` its words where it does not."""

    family: str
    nats: float | None = None
    refusal: str = ""


def random_model(family: str, **settings: Any) -> PreTrainedModel:
    """A tiny random model; every weight is moved, biases, gains and sinks too."""
    known = CONFIG_MAPPING[family]()
    wanted = TINY | (LATENT if hasattr(known, "qk_rope_head_dim") else {}) | SPECIAL.get(family, {}) | settings
    config = CONFIG_MAPPING[family](**{name: value for name, value in wanted.items() if hasattr(known, name)})
    for name, value in vars(config).items():
        if isinstance(value, float) and name not in settings and ("drop" in name or name.endswith("jitter_noise")):
            setattr(config, name, 0.0)
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += SPREAD * torch.randn(parameter.shape, generator=generator)
    return model


def verdict(family: str, **settings: Any) -> Verdict:
    """Write the family's tiny model to a folder, load it as the trainer does, compare."""
    with tempfile.TemporaryDirectory() as folder:
        random_model(family, **settings).save_pretrained(folder)
        try:
            policy = load_policy(Path(folder), longest=512)
            nats = check_agreement(policy, own_values(policy), device=torch.device("cpu"))
        except ModelError as refusal:
            return Verdict(family, refusal=str(refusal))
    return Verdict(family, nats=nats)


HEAD = f"""# Which models were compared

What the trainer computes of a model on packed documents, against what the model's own code in transformers {{version}}
computes of one document at a time: decoders of transformers, each as a tiny random model, in float32 on a CPU. `make
models-table` makes this page; a test holds it against the code. The same comparison is made with *your* model at every
start ([training.md](training.md#the-same-model)), and refuses above {FLOAT32.nats:g} nats: a family that is not
listed is not thereby refused.

That the trainer can train a family does not say that vLLM serves it.

| model type | largest \\|Δ log p\\|, nats | or refused, because |
| --- | --- | --- |
"""


def short(refusal: str) -> str:
    """The reason alone."""
    reason = refusal.partition("cannot be trained here: ")[2]
    return reason.partition("is tolerated): ")[2] or reason


def row(said: Verdict) -> str:
    """One line of the table."""
    if said.nats is None:
        return f"| {said.family} | | {short(said.refusal)} |\n"
    return f"| {said.family} | {said.nats:.0e} | |\n"


def main() -> None:
    """Write the page."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    torch.set_num_threads(1)
    rows = [row(verdict(family)) for family in FAMILIES]
    PAGE.write_text(HEAD.format(version=transformers.__version__) + "".join(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
