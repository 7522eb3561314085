"""Trainer and engine on one GPU: weights from one to the other, whether they agree before and after, and how fast the
engine is, without graphs. One engine serves all of it: its start is the dearest part.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from gpu.agreement import K3, agreement, choices, deltas, model_of, same_weights
from gpu.finding import Figure, Finding
from gpu.models import SHAPES, SPREAD, TINY, Shape, write_model
from gpu.place import Place
from gpu.rollouts import Rollout, engine_config, launched, random_prompts, rollout, wait_ready
from gpu.throughput import KV_BYTES, throughput
from gpu.trainers import trainer_of
from toolorchestra.engines.server import EngineServer
from toolorchestra.trainer.batch import StepConfig
from toolorchestra.trainer.trainer import Trainer
from toolorchestra.weights.snapshot import WEIGHTS

TOTAL_SECONDS, PAUSE_SECONDS = 4.0, 2.0
UPDATE = 0.015
"""Learning rate of the one step, as a share of the weights' standard deviation: far more than in training, so that the
update shows, and not so much that the model is another one."""
TINY_SPREAD = 0.2
"""Of a tiny model's weights: with less it only repeats its last token."""
WORST_GAP = 1.0
"""Nats: two bfloat16 computations of logits of ±16 differ by a few steps of 0.06 to 0.12."""


def check(place: Place) -> Iterator[Finding]:
    shape = TINY if place.tiny else SHAPES[place.subject]
    spread = TINY_SPREAD if place.tiny else SPREAD
    folder = write_model(place.scratch / "model", shape, device=place.device, spread=spread)
    began = time.perf_counter()
    config = engine_config(place, folder, eager=True, kv_bytes=KV_BYTES, at_a_time=256)
    with launched(config, log=place.folder / "engine.log") as server:
        trainer = trainer_of(place, folder, checkpointing=True)
        yield Figure(name="trainer ready", value=time.perf_counter() - began, unit="s")
        wait_ready(server)
        yield Figure(name="engine ready, eager", value=time.perf_counter() - began, unit="s")
        before = sampled(server, shape, place)
        yield from agreement(deltas(trainer, before.samples)).figures("before the update", gate=K3)
        metrics = trainer.step(before.samples, StepConfig(lr=UPDATE * spread, token_budget=4096))
        yield Figure(name="gradient norm of the step", value=metrics.grad_norm)
        dtype = torch.bfloat16 if place.cuda else torch.float32
        yield from timed_updates(server, trainer, place)
        snapshot = place.scratch / "snapshots" / "0-2" / WEIGHTS
        yield Figure(name="size of the weights", value=snapshot.stat().st_size / 1e9, unit="GB")
        yield Figure(
            name="tensors of the snapshot that are the trainer's",
            value=same_weights(snapshot, trainer, dtype=dtype),
            at_least=1.0,
        )
        after = sampled(server, shape, place)
        yield from agreement(deltas(trainer, after.samples)).figures("after the update", gate=K3)
        stale = agreement(deltas(trainer, before.samples))
        yield Figure(name="k3 of the old weights' samples (the update shows)", value=stale.k3, at_least=2 * K3)
        del trainer  # its memory is needed
        gc.collect()
        torch.cuda.empty_cache()
        yield from greedy(server, shape, place, folder, snapshot, dtype)
        yield from throughput(server, shape.vocabulary, tiny=place.tiny, name="eager")


def sampled(server: EngineServer, shape: Shape, place: Place) -> Rollout:
    """8,192 tokens; the same prompts each time, so that a prefix cache of old weights would show."""
    count, tokens = (8, 16) if place.tiny else (64, 128)
    return rollout(
        server, random_prompts(count, tokens=200, vocabulary=shape.vocabulary, seed=1), tokens=tokens, at_a_time=count
    )


def timed_updates(server: EngineServer, trainer: Trainer, place: Place) -> Iterator[Finding]:
    """The first one, with whatever is set up on the way, and a second, which counts."""
    for version, name in (("0-1", "first update"), ("0-2", "update")):
        bar = place.bar if version == "0-2" else (lambda _: None)
        began = time.perf_counter()
        snapshot = trainer.snapshot(
            place.scratch / "snapshots" / version, version=version, dtype="bfloat16" if place.cuda else "float32"
        )
        assert snapshot is not None
        written = time.perf_counter() - began
        taken = server.control.update(snapshot)
        yield Figure(name=f"{name}: snapshot", value=written, unit="s")
        for part in ("check", "pause", "load", "resume"):
            yield Figure(name=f"{name}: {part}", value=getattr(taken, part), unit="s")
        yield Figure(name=f"{name}: engine paused", value=taken.paused, unit="s", at_most=bar(PAUSE_SECONDS))
        yield Figure(name=f"{name}: in all", value=written + taken.total, unit="s", at_most=bar(TOTAL_SECONDS))


def greedy(
    server: EngineServer, shape: Shape, place: Place, folder: Path, snapshot: Path, dtype: torch.dtype
) -> Iterator[Finding]:
    """The engine's greedy tokens after the update, beside those of transformers with the snapshot's weights."""
    count, tokens = (4, 16) if place.tiny else (16, 48)
    prompts = random_prompts(count, tokens=100, vocabulary=shape.vocabulary, seed=2)
    found = rollout(server, prompts, tokens=tokens, at_a_time=count, temperature=0.0).samples
    new = choices(model_of(snapshot, folder, device=place.device, dtype=dtype), found)
    yield from new.figures("new weights", equal=None if place.cuda else 1.0, worst=WORST_GAP)
    old = choices(model_of(folder / "model.safetensors", folder, device=place.device, dtype=dtype), found)
    yield Figure(name="old weights: greedy tokens that are equal", value=old.equal)
    name = "old weights: mean gap to the most likely token (the update shows)"
    yield Figure(name=name, value=old.gap, unit="nats", at_least=2 * new.gap + 1e-3)
