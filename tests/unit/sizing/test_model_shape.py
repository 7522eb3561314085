"""A model's shape from its folder; what it lacks, or says in another way."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from support.memory_layouts import LAYOUT
from toolorchestra.policy.model_file import ModelFileError
from toolorchestra.sizing.memory import memory_plan
from toolorchestra.sizing.model_shape import QWEN3, shape_of

# ── from a folder ───────────────────────────────────────────────────────────────────────────────────────────────────

Folder = Callable[..., Path]


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    def make(config: dict[str, Any], **tensors: list[int]) -> Path:
        (tmp_path / "config.json").write_text(json.dumps(config))
        header = json.dumps({
            name.replace("__", "."): {"dtype": "BF16", "shape": shape, "data_offsets": [0, 0]}
            for name, shape in tensors.items()
        }).encode()  # fmt: skip
        (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
        return tmp_path

    return make


LLAMA = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 160,
    "vocab_size": 10,
}


def test_a_real_folder_tells_its_shape(tiny: Path, tiny_tied: Path) -> None:
    for one in (tiny, tiny_tied):
        model = AutoModelForCausalLM.from_pretrained(one)
        shape = shape_of(one)
        assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
        assert (shape.layers, shape.hidden) == (model.config.num_hidden_layers, model.config.hidden_size)
        assert shape.tied == (one == tiny_tied)
        assert shape.query_key_norm
        assert shape.layers * shape.block + shape.root == pytest.approx(shape.parameters, rel=0.01)


def test_what_a_config_leaves_out_is_its_default(folder: Folder) -> None:
    shape = shape_of(folder(LLAMA, embed__weight=[10, 64], lm_head__weight=[10, 64]))
    assert (shape.kv_heads, shape.head_dim, shape.tied, shape.query_key_norm) == (4, 16, False, False)
    assert shape.parameters == 1280


def test_a_head_that_is_tied_counts_once(folder: Folder) -> None:
    tied = {**LLAMA, "tie_word_embeddings": True}
    assert shape_of(folder(tied, embed__weight=[10, 64], lm_head__weight=[10, 64])).parameters == 640


def test_the_language_part_of_a_larger_model(folder: Folder) -> None:
    shape = shape_of(folder({"model_type": "x_vl", "text_config": LLAMA}, embed__weight=[10, 64]))
    assert (shape.hidden, shape.layers) == (64, 2)


def test_heads_are_tied_where_the_whole_model_says_so(folder: Folder) -> None:
    nested = {"tie_word_embeddings": True, "text_config": LLAMA}
    shape = shape_of(folder(nested, embed__weight=[10, 64], lm_head__weight=[10, 64]))
    assert (shape.tied, shape.parameters) == (True, 640)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", "64"),
        ("hidden_size", 64.5),
        ("num_hidden_layers", 0),
        ("vocab_size", True),
        ("num_key_value_heads", -2),
        ("intermediate_size", "wide"),
        ("num_attention_heads", []),
        ("num_experts_per_tok", "2"),
    ],
)
def test_what_is_no_size_is_named_and_never_taken_for_absent(folder: Folder, name: str, value: object) -> None:
    with pytest.raises(ModelFileError, match=rf"config\.json: {name} is {re.escape(json.dumps(value))}: want a whole"):
        shape_of(folder({**LLAMA, name: value}, embed__weight=[10, 64]))


def test_layers_of_different_sizes_count_as_the_largest_and_that_is_said(folder: Folder) -> None:
    shape = shape_of(folder({**LLAMA, "intermediate_size": [96, 160]}, embed__weight=[10, 64]))
    assert shape.intermediate == 160
    assert shape.note == "its layers differ in intermediate_size: all are counted as the largest"


def test_heads_that_the_config_leaves_out_are_those_of_the_weights(folder: Folder) -> None:
    """Not hidden / heads each: some families have wider ones."""
    tower = {"vision__q_proj__weight": [8, 32]}
    shape = shape_of(folder(LLAMA, **tower, a__q_proj__weight=[128, 64], a__k_proj__weight=[64, 64]))
    assert (shape.head_dim, shape.kv_heads) == (32, 2)


def test_what_a_family_leaves_out_is_its_default(folder: Folder) -> None:
    """As the published Gemma 3, whose text_config names no heads."""
    inner = {"model_type": "gemma3_text", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 2}
    shape = shape_of(folder({"model_type": "gemma3", "text_config": inner}, embed__weight=[10, 64]))
    assert (shape.hidden, shape.layers, shape.heads, shape.kv_heads, shape.head_dim) == (64, 2, 8, 4, 256)
    assert (shape.vocabulary, shape.tied) == (262_208, True)


def test_a_mixture_of_experts_says_that_it_is_a_guess(folder: Folder) -> None:
    mixture = {**LLAMA, "num_experts_per_tok": 8, "moe_intermediate_size": 32}
    shape = shape_of(folder(mixture, embed__weight=[10, 64]))
    assert shape.intermediate == 8 * 32
    shared = {**mixture, "shared_expert_intermediate_size": 48, "n_shared_experts": 2}
    assert shape_of(folder(shared, embed__weight=[10, 64])).intermediate == 8 * 32 + 48 + 2 * 32
    assert "mixture of experts" in "\n".join(memory_plan(shape, LAYOUT).lines())


def test_a_cap_on_the_logits_counts_as_an_entropy_term_does(folder: Folder) -> None:
    capped = {**LLAMA, "final_logit_softcapping": 30.0}
    plain, shape = (shape_of(folder(config, embed__weight=[10, 64])) for config in (LLAMA, capped))
    assert (plain.capped, shape.capped) == (False, True)
    large = QWEN3["1.7B"]
    with_entropy = memory_plan(large, replace(LAYOUT, entropy=True))
    assert memory_plan(replace(large, capped=True), LAYOUT).trainer_peak == with_entropy.trainer_peak
    assert memory_plan(large, LAYOUT).trainer_peak < with_entropy.trainer_peak


def test_what_a_folder_lacks_is_said(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"no config\.json"):
        shape_of(tmp_path)
    with pytest.raises(ModelFileError, match="no hidden_size"):
        shape_of(folder({}, embed__weight=[10, 64]))
    (tmp_path / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(ModelFileError, match="safetensors"):
        shape_of(tmp_path)
    strange: list[list[Any]] = [["5", 64], [-5, 64], [5.5, 64]]
    for size in strange:
        with pytest.raises(ModelFileError, match="its header cannot be read"):
            shape_of(folder(LLAMA, embed__weight=size))
