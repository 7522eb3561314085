"""The policy: a Hugging Face causal language model on packed tokens, with chunked log probabilities for its head.

Everything of the forward runs inside this one module, so that FSDP2 has the root's parameters (embedding, final norm,
head) whole when the head needs them. Tied embeddings stay one parameter.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from toolorchestra.train.attention import PACKED_ATTENTION, Documents
from toolorchestra.train.logprob import token_logprobs
from toolorchestra.train.packing import PackedBatch


class ModelError(RuntimeError):
    """The model folder cannot be trained as it is."""


class Head(Protocol):
    def __call__(self, hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]: ...


class Policy(nn.Module):
    """`forward(batch)` → (log probabilities [N], entropy [N]) of the batch's trained tokens, float32."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        head: nn.Module | None = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        if head is None or getattr(head, "bias", None) is not None:
            raise ModelError(f"{type(model).__name__} has no output head without bias: it cannot be trained here")
        for setting in ("final_logit_softcapping", "logit_scale"):
            if getattr(model.config, setting, None):
                raise ModelError(f"{type(model).__name__} uses {setting}, which the chunked head does not compute")
        self.model = model

    @property
    def config(self) -> Any:
        return self.model.config

    @property
    def blocks(self) -> list[nn.Module]:
        """The decoder layers, the units that FSDP2 shards and gradient checkpointing recomputes."""
        names = set(self.model._no_split_modules or ())
        return [module for module in self.model.modules() if type(module).__name__ in names]

    @property
    def head_weight(self) -> Tensor:
        """[vocabulary, hidden]; the embedding itself where the two are tied."""
        weight = self.model.get_output_embeddings().weight  # type: ignore[no-untyped-call]
        assert isinstance(weight, Tensor)
        return weight

    def forward(self, batch: PackedBatch, head: Head = token_logprobs) -> tuple[Tensor, Tensor]:
        documents = Documents(batch.lengths, batch.token_ids.device, batch.parents)
        output = self.model.base_model(
            input_ids=batch.token_ids, position_ids=batch.position_ids, use_cache=False, documents=documents
        )
        # The head runs on trained tokens only: prompts never meet the vocabulary.
        hidden = output.last_hidden_state[0].index_select(0, batch.selected)
        return head(hidden, self.head_weight, batch.targets)


def load_policy(folder: Path, *, gradient_checkpointing: bool = False) -> Policy:
    """Load a Hugging Face folder in float32 on the CPU, for packed attention. ModelError where it does not fit."""
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} is not a Hugging Face model folder: it has no config.json")
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=PACKED_ATTENTION, local_files_only=True
    )
    for name, value in vars(model.config).items():
        if name.endswith("dropout") and value:
            raise ModelError(f"{name}={value}: dropout makes trainer and engine disagree; set it to 0")
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return Policy(model)
