"""The policy: a Hugging Face causal language model on packed tokens, whose head computes log probabilities in chunks.

The whole forward runs inside this one module, so that FSDP2 has the root's parameters (embedding, final norm, head)
whole when the head needs them. Tied embeddings stay one parameter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from toolorchestra.policy.model_file import ModelFileError
from toolorchestra.trainer.attention import PACKED_ATTENTION, documents_known
from toolorchestra.trainer.documents import Documents
from toolorchestra.trainer.errors import TrainerError
from toolorchestra.trainer.logprob import Logits, token_logprobs
from toolorchestra.trainer.model_settings import language_settings, read_settings, why_refused
from toolorchestra.trainer.packing import PackedBatch


class ModelError(TrainerError, RuntimeError):
    """The model folder cannot be trained."""


def logits_of(config: Any) -> Logits:
    """Return how a model with these settings computes logits from its head's products. agreement.py checks it."""
    scale = 1.0
    if multiplier := getattr(config, "logit_scale", None):  # Cohere
        scale *= multiplier
    if divisor := getattr(config, "logits_scaling", None):  # Granite, MiniCPM3; a factor in HyperCLOVA X
        scale *= divisor if config.model_type == "hyperclovax" else 1 / divisor
    return Logits(scale, getattr(config, "final_logit_softcapping", None))  # Gemma 2 and later


class Policy(nn.Module):
    """The trained model. `forward(batch)` → (log probabilities [N], entropy [N]) of its trained tokens, float32."""

    def __init__(self, model: PreTrainedModel, *, head_float32: bool = False) -> None:
        super().__init__()
        self.head_float32 = head_float32
        head: nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        if head is None or getattr(head, "bias", None) is not None:
            raise ModelError(
                f"{type(model).__name__} cannot be trained here: its output head has a bias, or it has none"
            )
        self.model = model
        self.logits = logits_of(self.config)

    @property
    def config(self) -> Any:
        """Settings of the language model, also if the folder contains more than that."""
        return language_settings(self.model.config)

    @property
    def blocks(self) -> list[nn.Module]:
        """The decoder layers: the units that FSDP2 shards and that gradient checkpointing recomputes."""
        names = set(self.model._no_split_modules or ())
        return [module for module in self.model.modules() if type(module).__name__ in names]

    @property
    def head_weight(self) -> Float[Tensor, "vocabulary hidden"]:
        """[vocabulary, hidden]; the embedding itself if the two are tied."""
        weight = self.model.get_output_embeddings().weight  # type: ignore[no-untyped-call]
        assert isinstance(weight, Tensor)
        return weight

    def forward(self, batch: PackedBatch) -> tuple[Float32[Tensor, " trained"], Float32[Tensor, " trained"]]:
        # The head runs on trained tokens only: prompts never meet the vocabulary.
        hidden = self.hidden(batch).index_select(0, batch.selected)
        weight = self.head_weight
        if self.head_float32:
            hidden, weight = hidden.float(), weight.float()
        return token_logprobs(hidden, weight, batch.targets, head=self.logits)

    def hidden(self, batch: PackedBatch) -> Float[Tensor, "packed hidden"]:
        """Return [T, hidden]: the head's input for every packed token."""
        documents = Documents(batch.lengths, batch.token_ids.device, batch.parents)
        with documents_known():
            output = self.model.base_model(
                input_ids=batch.token_ids, position_ids=batch.position_ids, use_cache=False, documents=documents
            )
        hidden = output.last_hidden_state[0]
        assert isinstance(hidden, Tensor)
        return hidden


def load_policy(
    folder: Path, *, gradient_checkpointing: bool = False, longest: int | None = None, head_float32: bool = False
) -> Policy:
    """Load a Hugging Face folder in float32 on the CPU, for packed attention. ModelError if it cannot be trained.

    `longest`: tokens of the longest document of the run, if known. `head_float32`: the head multiplies float32 copies
    of its input and of its weight, if these are narrower.
    """
    try:
        config = read_settings(folder)
    except ModelFileError as error:
        raise ModelError(str(error)) from error
    if why := why_refused(config, longest=longest):
        raise ModelError(why)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype=torch.float32, attn_implementation=PACKED_ATTENTION, local_files_only=True
        )
    except (KeyError, ValueError) as error:  # raised by transformers and its older models
        why = f"its attention cannot be replaced ({type(error).__name__}: {error})"
        raise ModelError(f"a model of type {config.model_type} cannot be trained here: {why}") from error
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return Policy(model, head_float32=head_float32)
