"""TRL's side: GRPOTrainer's own training step, gradient clipping and optimizer on the same file; JSON on the last line.

Generation is left out: `_prepare_inputs` is given what TRL would have made of the trajectories, padded as TRL pads
(prompts left, completions right, to the longest of the batch). The log-prob passes are ours: one, with gradient. TRL
runs without gradient checkpointing, in float32, and may split the batch (`micro_batch`); the best split counts.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import GRPOConfig, GRPOTrainer
from world import PROMPT_TOKENS, SIBLINGS, STEP, STEPS, WARM_UP


def padded_batch(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    longest = max(len(row["completion"]) for row in rows)

    def right(name: str, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([row[name] + [0] * (longest - len(row[name])) for row in rows], dtype=dtype)

    lengths = torch.tensor([len(row["completion"]) for row in rows])
    mask = (torch.arange(longest)[None] < lengths[:, None]).long()
    return {
        "prompt_ids": torch.tensor([row["prompt"] for row in rows]),
        "prompt_mask": torch.ones(len(rows), PROMPT_TOKENS, dtype=torch.int64),
        "completion_ids": right("completion", torch.int64),
        "completion_mask": mask,
        "advantages": torch.tensor([row["advantage"] for row in rows]),
        "old_per_token_logps": right("logprobs", torch.float32),
        "num_items_in_batch": mask.sum(),
    }


def make_trainer(folder: Path, rows: int, micro_batch: int) -> GRPOTrainer:
    config = GRPOConfig(
        output_dir=tempfile.mkdtemp(),
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=rows // micro_batch,
        num_generations=SIBLINGS,
        learning_rate=STEP["lr"],
        lr_scheduler_type="constant",
        epsilon=STEP["clip_low"],
        epsilon_high=STEP["clip_high"],
        max_grad_norm=STEP["max_grad_norm"],
        loss_type="dapo",
        beta=0.0,
        temperature=1.0,
        report_to=[],
    )
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32),
        processing_class=AutoTokenizer.from_pretrained(folder / "model"),
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=config,
        train_dataset=Dataset.from_dict({"prompt": ["x"] * rows}),
    )
    trainer.create_optimizer()
    trainer.optimizer = trainer.accelerator.prepare(trainer.optimizer)
    trainer.model_wrapped = trainer.model = trainer.accelerator.prepare(trainer.model)
    trainer.current_gradient_accumulation_steps = config.gradient_accumulation_steps
    trainer._prepare_inputs = lambda inputs: inputs
    trainer.model.train()
    return trainer


def step(trainer: GRPOTrainer, batch: dict[str, torch.Tensor], micro_batch: int) -> tuple[float, float]:
    """One optimizer step as transformers' loop makes it; (loss, gradient norm)."""
    rows, loss = len(batch["advantages"]), 0.0
    for start in range(0, rows, micro_batch):
        part = {k: v if v.dim() == 0 else v[start : start + micro_batch] for k, v in batch.items()}
        loss += float(trainer.training_step(trainer.model, part, None))
    norm = trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), trainer.args.max_grad_norm)
    trainer.optimizer.step()
    trainer.optimizer.zero_grad()
    return loss, float(norm)


def main(folder: Path, threads: int, micro_batch: int) -> None:
    torch.set_num_threads(threads)
    rows = json.loads((folder / "trajectories.json").read_text())
    batch, trainer = padded_batch(rows), make_trainer(folder, len(rows), micro_batch)
    seconds, cpu_seconds, results = [], [], []
    for _ in range(WARM_UP + STEPS):
        start, cpu = time.perf_counter(), time.process_time()
        results.append(step(trainer, batch, micro_batch))
        seconds.append(time.perf_counter() - start)
        cpu_seconds.append(time.process_time() - cpu)
    padding = 1 - (batch["completion_mask"].sum() + batch["prompt_mask"].sum()) / (
        batch["completion_mask"].numel() + batch["prompt_mask"].numel()
    )
    report = {
        "loss": results[0][0],
        "grad_norm": results[0][1],
        "seconds": seconds[WARM_UP:],
        "cpu_seconds": cpu_seconds[WARM_UP:],
        "micro_batch": micro_batch,
        "padding": round(float(padding), 4),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
