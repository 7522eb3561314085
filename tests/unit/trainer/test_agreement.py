"""The trainer computes what the model computes, or says that it does not: over families, and with parts taken away."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from support.model_families import FAMILIES, PAGE, random_model, row, verdict
from support.train_samples import sibling_batch
from toolorchestra.trainer import attention, model, model_settings
from toolorchestra.trainer.agreement import FLOAT32, Tolerance, largest
from toolorchestra.trainer.family import families
from toolorchestra.trainer.logprob import Logits
from toolorchestra.trainer.model import ModelError, load_policy
from toolorchestra.trainer.packing import pack
from toolorchestra.trainer.refusals import refusals
from toolorchestra.trainer.trainer import Trainer, TrainerConfig


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    transformers.logging.disable_progress_bar()
    yield
    transformers.logging.enable_progress_bar()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_agrees_or_is_refused_as_the_docs_say(family: str) -> None:
    """docs/models.md is what `make models-table` would write, but for the digits of agreement."""
    said = verdict(family)
    written = next(line for line in PAGE.read_text().splitlines(keepends=True) if line.startswith(f"| {family} |"))
    if said.nats is None:
        assert written == row(said)
    else:
        assert said.nats <= FLOAT32.nats
        assert re.fullmatch(rf"\| {family} \| \de-\d\d \| \|\n", written)


def without(**settings: Any) -> Callable[..., Any]:
    """Attention that leaves something out."""
    honest = attention.Weighing.__init__

    def forgetful(self: Any, *args: Any) -> None:
        honest(self, *args)
        for name, value in settings.items():
            object.__setattr__(self, name, value)

    return forgetful


@pytest.mark.parametrize(
    ("family", "left_out", "found"),
    [
        ("gemma2", {"softcap": None}, "its layers compute something"),
        ("gpt_oss", {"sinks": None}, "its layers compute something"),
        ("mistral", {"window": None}, "its layers compute something"),
    ],
)
def test_attention_that_leaves_something_out_is_noticed(
    family: str, left_out: dict[str, Any], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert verdict(family).nats is not None
    monkeypatch.setattr(attention.Weighing, "__init__", without(**left_out))
    assert found in verdict(family).refusal


@pytest.mark.parametrize("family", ["granite", "gemma2", "cohere", "hyperclovax"])
def test_a_head_that_leaves_something_out_is_noticed(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "logits_of", lambda config: Logits())
    refusal = verdict(family).refusal
    assert re.search(r"differ from the model's own by up to [\d.]+ nats \(at most 0.001 is tolerated\)", refusal)
    assert "its head does something with the logits" in refusal


@pytest.mark.parametrize("family", ["qwen3_next", "lfm2", "rwkv"])
def test_documents_that_run_into_one_another_are_noticed_without_a_name(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_settings, "refusals", lambda config, longest: iter(()))
    assert "documents that are packed together change one another" in verdict(family).refusal


def test_siblings_that_share_a_trunk_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_continued", lambda query, key, value, trunk, mask, how: value.repeat(1, 1, 2, 1))
    assert "siblings that share their prompt" in verdict("llama").refusal


def test_noise_in_training_mode_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_settings, "refusals", lambda config, longest: iter(()))
    assert "something else in training mode" in verdict("mixtral", router_jitter_noise=0.3).refusal


@pytest.mark.parametrize("family", ["gemma2", "gpt_oss", "granite", "mistral", "deepseek_v3"])
def test_gradients_are_the_models_own(family: str, tmp_path: Path) -> None:
    random_model(family).save_pretrained(tmp_path)
    policy = load_policy(tmp_path)
    samples = sibling_batch(3, groups=2, siblings=3)
    units = families(samples, limit=10_000)
    policy(pack(samples, [0.0] * len(samples), units))[0].sum().backward()
    got = {name: parameter.grad for name, parameter in policy.model.named_parameters() if parameter.grad is not None}
    policy.zero_grad(set_to_none=True)
    policy.model.set_attn_implementation("eager")
    for sample in samples:
        ids = torch.tensor(sample.token_ids)
        log_p = policy.model(ids[None]).logits[0].log_softmax(-1)[:-1].gather(1, ids[1:, None]).squeeze(1)
        log_p[torch.tensor(sample.loss_mask)[1:]].sum().backward()
    for name, parameter in policy.model.named_parameters():
        if parameter.grad is not None and parameter.grad.any():
            torch.testing.assert_close(got[name], parameter.grad, atol=2e-3 * float(parameter.grad.abs().max()), rtol=0)


def test_a_trainer_of_such_a_model_does_not_start(tmp_path: Path) -> None:
    random_model("bloom").save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"BloomForCausalLM cannot be trained here: .* nats"):
        Trainer(TrainerConfig(model_dir=str(tmp_path), device="cpu"))


def test_what_settings_tell_is_refused_by_name() -> None:
    config = transformers.CONFIG_MAPPING["phimoe"](attention_dropout=0.1, router_jitter_noise=0.01)
    assert [reason.partition(":")[0] for reason in refusals(config)] == [
        "attention_dropout=0.1",
        "router_jitter_noise=0.01",
    ]
    config = transformers.CONFIG_MAPPING["gpt2"]()
    assert [reason.partition("=")[0] for reason in refusals(config)] == ["resid_pdrop", "embd_pdrop", "attn_pdrop"]
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10_000.0}
    config = transformers.CONFIG_MAPPING["llama"](rope_parameters=rope, max_position_embeddings=100)
    assert not list(refusals(config, longest=100))
    assert "of type dynamic: beyond 100 tokens" in next(refusals(config, longest=101))


def test_outliers_are_left_out_and_what_is_not_a_number_is_not() -> None:
    differences = torch.tensor([0.0] * 18 + [1.0, -3.0])
    assert largest(differences, FLOAT32) == 3.0
    assert largest(differences, Tolerance(1.0, outliers=0.05)) == 1.0
    assert largest(differences, Tolerance(1.0, outliers=0.1)) == 0.0
    assert largest(torch.tensor([0.0, float("nan")]), FLOAT32) == float("inf")
