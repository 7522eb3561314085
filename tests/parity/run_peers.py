"""Run TRL's and verl's own loss code on the committed inputs and write outputs.json. Runs in .bench/peers.

The peers' functions are called as they are; only the model call is replaced by the committed log probabilities.
"""

from __future__ import annotations

import json
from collections import defaultdict
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any

import torch
from cases import CASES, HERE, Case, read_inputs


class Accelerator:
    """One process: gathers and reductions are identities."""

    num_processes = 1
    sync_gradients = True

    def gather(self, value: Any) -> Any:
        return value

    def reduce(self, value: Any, reduction: str = "sum") -> Any:
        return value


def tensors() -> dict[str, torch.Tensor]:
    made = {name: torch.tensor(value, dtype=torch.float32) for name, value in read_inputs().items()}
    made["logprobs"].requires_grad_()
    made["entropy"].requires_grad_()
    return made


def outcome(loss: torch.Tensor, given: dict[str, torch.Tensor]) -> dict[str, Any]:
    loss.backward()
    gradients = {}
    for name in ("logprobs", "entropy"):
        grad = given[name].grad
        gradients[name] = (torch.zeros_like(given[name]) if grad is None else grad).tolist()
    return {"loss": loss.item(), "gradients": gradients}


def trl(case: Case) -> dict[str, Any] | None:
    """GRPOTrainer._compute_loss; it has the k3 estimator only."""
    from trl import GRPOTrainer

    if case.kl_coefficient and case.kl_estimator != "k3":
        return None
    given = tensors()
    mask = given["mask"]
    trainer = SimpleNamespace(
        _get_per_token_logps_and_entropies=lambda *a, **k: (given["logprobs"], given["entropy"], None),
        loss_type="dapo" if case.aggregation == "token_mean" else "grpo",
        importance_sampling_level="token",
        beta=case.kl_coefficient,
        epsilon_low=case.clip_low,
        epsilon_high=case.clip_high,
        args=SimpleNamespace(delta=case.dual_clip, use_bias_correction_kl=False, steps_per_generation=1),
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        aux_loss_enabled=False,
        model=SimpleNamespace(training=True),
        current_gradient_accumulation_steps=1,
        accelerator=Accelerator(),
        _entropy_bonus_enabled=case.entropy_coefficient != 0,
        use_adaptive_entropy=False,
        entropy_coef=case.entropy_coefficient,
        _metrics={"train": defaultdict(list)},
    )
    batch = {
        "prompt_ids": torch.zeros(len(mask), 1, dtype=torch.int64),
        "prompt_mask": torch.ones(len(mask), 1, dtype=torch.int64),
        "completion_ids": torch.zeros(mask.shape, dtype=torch.int64),
        "completion_mask": mask,
        "advantages": given["advantages"],
        "old_per_token_logps": given["sampler"],
        "ref_per_token_logps": given["reference"],
        "num_items_in_batch": mask.sum(),
    }
    result = outcome(GRPOTrainer._compute_loss(trainer, None, batch), given)
    result["clip_fraction"] = trainer._metrics["train"]["clip_ratio/region_mean"][0]
    return result


def verl(case: Case) -> dict[str, Any] | None:
    """compute_policy_loss_vanilla, agg_loss and kl_penalty; without dual clip its constant is set out of reach."""
    from verl.trainer.ppo.core_algos import agg_loss, compute_policy_loss_vanilla, kl_penalty

    given = tensors()
    mask = given["mask"]
    settings = {
        "clip_ratio": case.clip_low,
        "clip_ratio_low": case.clip_low,
        "clip_ratio_high": case.clip_high,
        "clip_ratio_c": case.dual_clip or 1e9,
    }
    config = SimpleNamespace(**settings, get=lambda key, default: settings.get(key, default), global_batch_info={})
    mode = {"token_mean": "token-mean", "sequence_mean": "seq-mean-token-mean"}[case.aggregation]
    advantages = given["advantages"][:, None].expand_as(mask)
    loss, _ = compute_policy_loss_vanilla(given["sampler"], given["logprobs"], advantages, mask, mode, config)
    if case.entropy_coefficient:
        loss = loss - case.entropy_coefficient * agg_loss(given["entropy"], mask, mode)
    if case.kl_coefficient:
        name = {"half_delta_squared": "mse"}.get(case.kl_estimator, case.kl_estimator)
        loss = loss + case.kl_coefficient * agg_loss(
            kl_penalty(given["logprobs"], given["reference"], name), mask, mode
        )
    return outcome(loss, given)


def main() -> None:
    outputs: dict[str, Any] = {"versions": {name: version(name) for name in ("trl", "verl", "torch")}}
    for name, peer in (("trl", trl), ("verl", verl)):
        outputs[name] = {case.name: result for case in CASES if (result := peer(case)) is not None}
        print(f"{name} {outputs['versions'][name]}: {len(outputs[name])} cases")
    (HERE / "outputs.json").write_text(json.dumps(outputs, indent=1) + "\n")


if __name__ == "__main__":
    main()
