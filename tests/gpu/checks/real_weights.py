"""Trainer against engine on SmolLM2-135M's real weights and real chats, before and after an update; with heads in
bfloat16 and in float32, on either side.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

from transformers import AutoTokenizer

from gpu.agreement import K3, agreement, deltas
from gpu.finding import Figure, Finding, Skip
from gpu.identity import ROOT
from gpu.place import Place
from gpu.rollouts import Rollout, engine_config, launched, rollout, wait_ready
from gpu.trainers import trainer_of
from support.tiny_model import tiny_model
from toolorchestra.engines.server import EngineServer
from toolorchestra.trainer.batch import StepConfig
from toolorchestra.trainer.trainer import Trainer

TASKS = ROOT / "examples/real-model/tasks.jsonl"
PROMPTS, TOKENS = 64, 128
KV_BYTES = 2 * 10**9
LEARNING_RATE = 1e-5


def check(place: Place) -> Iterator[Finding]:
    """Two engines start side by side, one of them with a float32 head; both take the same snapshot."""
    folder = tiny_model(place.scratch / "model") if place.tiny else place.smollm
    if folder is None or not (folder / "config.json").is_file():
        yield Skip(reason=f"no model at {folder}: examples/real-model/get_model.py makes it, --smollm names it")
        return
    prompts = chats(folder, 8 if place.tiny else PROMPTS)
    began = time.perf_counter()
    plain = engine_config(place, folder, eager=True, kv_bytes=KV_BYTES, at_a_time=PROMPTS)
    wide = engine_config(place, folder, eager=True, kv_bytes=KV_BYTES, at_a_time=PROMPTS, head_float32=True)
    with (
        launched(plain, log=place.folder / "engine.log") as one,
        launched(wide, log=place.folder / "engine-float32-head.log") as other,
    ):
        trainer = trainer_of(place, folder)
        wait_ready(one)
        yield Figure(name="engine ready", value=time.perf_counter() - began, unit="s")
        first = sampled(one, prompts, place)
        yield Figure(name="mean log p of what was sampled", value=mean_logprob(first), unit="nats")
        yield from agreement(deltas(trainer, first.samples)).figures("before", gate=K3)
        wait_ready(other)
        yield from with_float32_heads(trainer, folder, first, sampled(other, prompts, place), place, name="before")
        trainer.step(first.samples, StepConfig(lr=LEARNING_RATE, token_budget=8192))
        dtype = "bfloat16" if place.cuda else "float32"
        snapshot = trainer.snapshot(place.scratch / "snapshots" / "0-1", version="0-1", dtype=dtype)
        assert snapshot is not None
        for engine in (one, other):
            engine.control.update(snapshot)
        second = sampled(one, prompts, place)
        yield from agreement(deltas(trainer, second.samples)).figures("after", gate=K3)
        trainer.export(place.scratch / "exported")
        exported = place.scratch / "exported"
        yield from with_float32_heads(trainer, exported, second, sampled(other, prompts, place), place, name="after")


def with_float32_heads(
    trainer: Trainer, folder: Path, plain: Rollout, wide: Rollout, place: Place, *, name: str
) -> Iterator[Finding]:
    """The other three combinations of heads. `folder` holds the trainer's weights."""
    yield from agreement(deltas(trainer, wide.samples)).figures(f"{name}, engine's head float32")
    other = trainer_of(place, folder, head_float32=True)
    yield from agreement(deltas(other, plain.samples)).figures(f"{name}, trainer's head float32")
    yield from agreement(deltas(other, wide.samples)).figures(f"{name}, both heads float32", gate=K3)


def chats(folder: Path, count: int) -> list[list[int]]:
    """Questions of the real model's example as its chat template writes them."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [json.loads(line) for line in TASKS.read_text(encoding="utf-8").splitlines()[:count]]
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": row["instruction"]}], tokenize=False, add_generation_prompt=True
        )
        for row in rows
    ]
    return [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]


def sampled(server: EngineServer, prompts: list[list[int]], place: Place) -> Rollout:
    return rollout(server, prompts, tokens=16 if place.tiny else TOKENS, at_a_time=len(prompts))


def mean_logprob(found: Rollout) -> float:
    values = [value for generation in found.generations for value in generation.logprobs]
    return sum(values) / len(values)
