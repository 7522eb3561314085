"""One and two CPU trainers under a real Ray: equal losses, gradient norms and parameters."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch
from safetensors.torch import load_file

from support.train_samples import fresh_places, random_batch, sibling_batch, some_fresh
from toolorchestra.trainer.batch import NonFiniteStep, StepConfig
from toolorchestra.trainer.group import TrainerGroup, TrainerLost
from toolorchestra.trainer.supervised import supervised_sample, supervised_step
from toolorchestra.trainer.trainer import Trainer, TrainerConfig
from toolorchestra.weights.checkpoint import CheckpointStore

pytestmark = pytest.mark.real

CONFIG = StepConfig(lr=1e-4, token_budget=700, entropy_coefficient=0.01, kl_coefficient=0.1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


def settings(folder: Path) -> TrainerConfig:
    return TrainerConfig(model_dir=str(folder), device="cpu", threads=1, reference=True)


@pytest.mark.parametrize("tied", [False, True])
def test_two_trainers_equal_one(cluster: None, tied: bool, tiny: Path, tiny_tied: Path, tmp_path: Path) -> None:
    folder = tiny_tied if tied else tiny
    samples = some_fresh([*random_batch(20, 20), *sibling_batch(20, groups=2, siblings=8)], seed=20)
    # Fewer sequences than ranks x micro-batches: one rank runs on nothing and still takes part.
    lone = some_fresh(random_batch(21, 1), seed=21)
    one, group = Trainer(settings(folder)), TrainerGroup(settings(folder), size=2)
    store = CheckpointStore(tmp_path / "checkpoints")
    try:
        group.run(Trainer.set_rng, 1)
        for batch in (samples, lone, samples):
            want, got = one.step(batch, CONFIG), group.run(Trainer.step, batch, CONFIG)[0]
            assert got.loss == pytest.approx(want.loss, abs=1e-6)
            assert got.grad_norm == pytest.approx(want.grad_norm, rel=1e-5)
            assert got.entropy == pytest.approx(want.entropy, rel=1e-5)
            assert got.ratio_max == pytest.approx(want.ratio_max, rel=1e-4)
            assert got.reference_kl == pytest.approx(want.reference_kl, abs=1e-6)
            assert want.mismatch is not None
            assert got.mismatch is not None
            assert got.mismatch.k3 == pytest.approx(want.mismatch.k3, rel=1e-4)
            assert got.mismatch.rms == pytest.approx(want.mismatch.rms, rel=1e-4)
            assert got.mismatch.tokens == want.mismatch.tokens == sum(len(fresh_places(sample)) for sample in batch)
            assert (got.tokens, got.trained_tokens) == (want.tokens, want.trained_tokens)
        snapshot, nothing = group.run(Trainer.snapshot, tmp_path / "0-3", version="0-3")
        assert snapshot is not None
        assert nothing is None
        after = load_file(snapshot.file)
        for name, tensor in one.full_tensors():
            torch.testing.assert_close(after[name], tensor, atol=2e-6, rtol=0)
        own = one.logprobs(samples)
        parts = group.run(Trainer.logprobs, samples)
        assert sorted(index for part in parts for index in part) == list(range(len(samples)))
        for index, values in (pair for part in parts for pair in part.items()):
            assert values == pytest.approx(own[index], abs=1e-4)
        imitated = [supervised_sample(s.token_ids, s.loss_mask) for s in samples]
        assert group.run(supervised_step, imitated, CONFIG)[0].loss == pytest.approx(
            supervised_step(one, imitated, CONFIG).loss, abs=1e-5
        )
        one.anchor()
        group.run(Trainer.anchor)
        want, got = one.step(samples, CONFIG), group.run(Trainer.step, samples, CONFIG)[0]
        assert got.reference_kl == pytest.approx(want.reference_kl, abs=1e-6)
        assert got.loss == pytest.approx(want.loss, abs=1e-6)
        # A checkpoint of two ranks loads in one, and the other way round.
        group.run(Trainer.save, store.begin(4))
        two = store.commit(4, job={})
        fresh = Trainer(settings(folder))
        fresh.load(two.path)
        assert fresh.step(samples, CONFIG).loss == pytest.approx(
            group.run(Trainer.step, samples, CONFIG)[0].loss, abs=1e-6
        )
        fresh.save(store.begin(5))
        group.run(Trainer.load, store.commit(5, job={}).path)
        assert group.run(Trainer.step, samples, CONFIG)[0].grad_norm == pytest.approx(
            fresh.step(samples, CONFIG).grad_norm, rel=1e-5
        )
        group.run(Trainer.export, tmp_path / "export")
        assert (tmp_path / "export" / "tokenizer.json").exists()
    finally:
        group.close()


def test_failures_of_the_group_are_typed(cluster: None, tiny: Path) -> None:
    samples = random_batch(22, 6)
    group = TrainerGroup(settings(tiny), size=2)
    try:
        with pytest.raises(NonFiniteStep):
            group.run(Trainer.step, [dataclasses.replace(samples[0], advantage=float("inf"))], CONFIG)
        group.run(Trainer.step, samples, CONFIG)[0]
        ray.kill(group._actors[1])
        with pytest.raises(TrainerLost):
            group.run(Trainer.step, samples, CONFIG)[0]
    finally:
        group.close()


def test_no_room_is_an_error_and_not_a_wait_for_ever(cluster: None, tiny: Path) -> None:
    with pytest.raises(TimeoutError, match="no room"):
        TrainerGroup(settings(tiny), size=os.cpu_count() or 1, cpus_per_trainer=64, ready_timeout=1)
