from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from support.train_samples import random_batch
from toolorchestra.trainer.batch import NonFiniteStep, StepConfig, TrainSample
from toolorchestra.trainer.objectives.clipped import Clipped
from toolorchestra.trainer.objectives.objective import LossInputs, LossOutputs
from toolorchestra.trainer.supervised import supervised_sample, supervised_step
from toolorchestra.trainer.trainer import Trainer, TrainerConfig
from toolorchestra.weights.checkpoint import CheckpointStore
from toolorchestra.weights.snapshot import SnapshotError, check_keys, folder_keys, open_snapshot, read_header, verify


def trainer(folder: Path, **settings: bool) -> Trainer:
    return Trainer(TrainerConfig(model_dir=str(folder), device="cpu", threads=1, **settings))


def weights(of: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in of.full_tensors()}


def on_policy(of: Trainer, samples: list[TrainSample]) -> list[TrainSample]:
    """The samples with the trainer's own log probabilities: what an engine with the same weights would report."""
    found = of.logprobs(samples)
    return [dataclasses.replace(sample, logprobs=found[i]) for i, sample in enumerate(samples)]


def test_the_step_does_not_depend_on_how_it_is_packed(tiny: Path) -> None:
    samples = random_batch(3, 20)
    results = []
    for budget in (100_000, 500, 130):
        one = trainer(tiny)
        results.append(
            (one.step(samples, StepConfig(lr=1e-4, token_budget=budget, entropy_coefficient=0.01)), weights(one))
        )
    assert results[0][0].micro_batches == 1
    seconds = results[2][0].seconds
    assert seconds.keys() == {"pack", "forward", "backward", "optimizer", "total"}
    assert 0.5 * seconds["total"] < sum(seconds[p] for p in seconds if p != "total") <= seconds["total"]
    assert results[2][0].micro_batches > results[1][0].micro_batches > 1
    for metrics, after in results[1:]:
        assert metrics.loss == pytest.approx(results[0][0].loss, abs=1e-6)
        assert metrics.grad_norm == pytest.approx(results[0][0].grad_norm, rel=1e-5)
        for name, tensor in after.items():
            torch.testing.assert_close(tensor, results[0][1][name], atol=2e-6, rtol=0)


def test_on_policy_the_ratio_is_one_and_parameters_move_at_lr_1e_6(tiny: Path) -> None:
    one = trainer(tiny)
    samples = on_policy(one, random_batch(4, 8))
    before = weights(one)
    metrics = one.step(samples, StepConfig(lr=1e-6))
    assert metrics.ratio_mean == pytest.approx(1, abs=1e-5)
    assert metrics.approx_kl == pytest.approx(0, abs=1e-8)
    assert metrics.clip_fraction == 0
    assert metrics.trained_tokens == sum(s.trained_tokens for s in samples)
    moved = {name: float((tensor - before[name]).abs().max()) for name, tensor in weights(one).items()}
    assert all(0 < distance <= 1.1e-6 for distance in moved.values()), moved


def test_a_step_raises_what_was_good_and_lowers_what_was_bad(tiny: Path) -> None:
    one = trainer(tiny)
    good, bad = (
        dataclasses.replace(s, advantage=a) for s, a in zip(random_batch(5, 2, shortest=30), (1, -1), strict=True)
    )
    samples = on_policy(one, [good, bad])
    first = one.logprobs(samples)
    for _ in range(5):
        one.step(samples, StepConfig(lr=1e-3))
    after = one.logprobs(samples)
    assert sum(after[0]) > sum(first[0])
    assert sum(after[1]) < sum(first[1])


def test_an_entropy_bonus_raises_entropy(tiny: Path) -> None:
    one = trainer(tiny)
    samples = [dataclasses.replace(s, advantage=0.0) for s in random_batch(6, 4)]
    config = StepConfig(lr=1e-3, entropy_coefficient=1.0)
    first = one.step(samples, config).entropy
    assert one.step(samples, config).entropy > first


def test_a_kl_term_pulls_back_to_the_reference(tiny: Path) -> None:
    free, held = trainer(tiny), trainer(tiny, reference=True)
    samples = random_batch(7, 8)
    for _ in range(8):
        free.step(samples, StepConfig(lr=2e-3))
        metrics = held.step(samples, StepConfig(lr=2e-3, kl_coefficient=3.0))
    assert metrics.reference_kl is not None
    start = dict(trainer(tiny).full_tensors())

    def distance(of: Trainer) -> float:
        return sum(float((tensor - start[name]).square().sum()) for name, tensor in of.full_tensors())

    assert distance(held) < distance(free)
    with pytest.raises(ValueError, match="reference=True"):
        free.step(samples, StepConfig(kl_coefficient=0.1))


def test_the_reference_is_the_initial_policy_also_after_a_resume(tiny: Path, tmp_path: Path) -> None:
    """What comes before the reinforcement learning (the warm start) moves the reference along; what comes after does
    not, and a checkpoint brings it back."""
    samples = random_batch(7, 8)
    config = StepConfig(lr=2e-3, kl_coefficient=0.1)
    one = trainer(tiny, reference=True)
    for _ in range(3):
        one.step(samples, config)
    away = one.step(samples, config).reference_kl
    assert away is not None
    assert away > 1e-4
    one.anchor()
    assert one.step(samples, config).reference_kl == pytest.approx(0.0, abs=1e-6)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    one.save(folder)
    resumed = trainer(tiny, reference=True)
    resumed.load(folder)
    again, goes_on = resumed.step(samples, config), one.step(samples, config)
    assert goes_on.reference_kl is not None
    assert goes_on.reference_kl > 1e-6
    assert again.reference_kl == pytest.approx(goes_on.reference_kl, rel=1e-4)


def test_without_a_reference_there_is_nothing_to_anchor(tiny: Path) -> None:
    """A warm start calls it for every trainer: it makes no second copy of the weights, and leaves the policy alone."""
    one = trainer(tiny)
    before = weights(one)
    one.anchor()
    assert one.reference is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(one).items())


def test_a_step_that_is_not_finite_changes_nothing(tiny: Path) -> None:
    one = trainer(tiny)
    samples = random_batch(8, 4)
    before = weights(one)
    with pytest.raises(NonFiniteStep):
        one.step([*samples, dataclasses.replace(samples[0], advantage=float("nan"))], StepConfig(lr=1e-3))
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(one).items())
    one.step(samples, StepConfig(lr=1e-3))
    assert not all(torch.equal(tensor, before[name]) for name, tensor in weights(one).items())


def test_after_a_step_that_broke_off_there_is_no_other(tiny: Path) -> None:
    """Its first micro-batches left gradients, which would be in the next step."""
    one = trainer(tiny)
    samples, config = random_batch(8, 12), StepConfig(lr=1e-3, token_budget=130)
    objective, calls = Clipped.of(config), 0

    def breaks(inputs: LossInputs) -> LossOutputs:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise MemoryError
        return objective(inputs)

    with pytest.raises(MemoryError):
        one.update(samples, config, breaks)
    assert any(parameter.grad is not None for parameter in one.parameters)
    with pytest.raises(RuntimeError, match="an error interrupted a step"):
        one.step(samples, config)


def test_gradients_are_clipped_to_the_norm(tiny: Path) -> None:
    """The clipped step equals the step of a loss scaled by the same factor; AdamW would hide it, so look at moments."""
    samples = random_batch(9, 4)
    one = trainer(tiny)
    metrics = one.step(samples, StepConfig(lr=1e-4, max_grad_norm=1e-3))
    moments = [state["exp_avg"] for state in one.optimizer.state.values()]
    norm = float(torch.sqrt(sum(m.square().sum() for m in moments))) / 0.1
    assert metrics.grad_norm > 1e-2
    assert norm == pytest.approx(1e-3, rel=1e-3)


def test_supervised_steps_learn_the_sequences(tiny: Path) -> None:
    one = trainer(tiny)
    samples = [supervised_sample(s.token_ids, s.loss_mask) for s in random_batch(10, 4, shortest=20, longest=40)]
    losses = [supervised_step(one, samples, StepConfig(lr=3e-3)).loss for _ in range(25)]
    assert losses[0] == pytest.approx(5.6, abs=0.5)
    assert losses[-1] < 0.5 * losses[0]


def test_save_and_load_continue_as_if_nothing_had_happened(tiny: Path, tmp_path: Path) -> None:
    samples = random_batch(11, 6)
    config = StepConfig(lr=1e-3)
    one, store = trainer(tiny), CheckpointStore(tmp_path)
    one.set_rng(5)
    one.step(samples, config)
    one.save(store.begin(1))
    store.commit(1, job={"incarnation": 0})
    draw, want = torch.rand(1), one.step(samples, config)
    other, latest = trainer(tiny), store.latest()
    assert latest is not None
    other.load(latest.path)
    assert torch.equal(torch.rand(1), draw)
    got = other.step(samples, config)
    assert (got.loss, got.grad_norm) == (want.loss, want.grad_norm)
    assert all(torch.equal(tensor, weights(one)[name]) for name, tensor in weights(other).items())


@pytest.mark.parametrize("tied", [False, True])
def test_a_snapshot_holds_exactly_the_models_tensors(tied: bool, tiny: Path, tiny_tied: Path, tmp_path: Path) -> None:
    folder = tiny_tied if tied else tiny
    one = trainer(folder)
    one.step(random_batch(12, 4), StepConfig(lr=1e-3))
    snapshot = one.snapshot(tmp_path / "0-1", version="0-1", dtype="bfloat16")
    assert snapshot is not None
    assert open_snapshot(tmp_path / "0-1") == snapshot
    assert verify(snapshot, want=folder_keys(folder)) == snapshot
    assert ("lm_head.weight" in read_header(snapshot.file)) is not tied
    written = load_file(snapshot.file)
    assert written.keys() == dict(one.full_tensors()).keys()
    for name, tensor in one.full_tensors():
        assert torch.equal(written[name], tensor.to(torch.bfloat16))


def test_a_partial_or_misshapen_key_set_is_named(tiny: Path) -> None:
    want = folder_keys(tiny)
    name = "model.norm.weight"
    with pytest.raises(SnapshotError, match=f"missing {name}"):
        check_keys({k: v for k, v in want.items() if k != name}, want, what="x")
    with pytest.raises(SnapshotError, match="unexpected extra"):
        check_keys(want | {"extra": (1,)}, want, what="x")
    with pytest.raises(SnapshotError, match=rf"{name} has shape \[7\]"):
        check_keys(want | {name: (7,)}, want, what="x")


@pytest.mark.parametrize("tied", [False, True])
def test_an_export_loads_in_transformers_with_its_chat_template(
    tied: bool, tiny: Path, tiny_tied: Path, tmp_path: Path
) -> None:
    folder = tiny_tied if tied else tiny
    one = trainer(folder)
    samples = random_batch(13, 4)
    one.step(samples, StepConfig(lr=1e-3))
    for _ in range(2):  # a second export replaces the first
        one.export(tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.dtype == torch.float32
    named = dict(model.named_parameters())
    for name, tensor in one.full_tensors():
        assert torch.equal(tensor, named[name])
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hé"}], tokenize=False, add_generation_prompt=True
    )
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert text.endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("wide", [False, True])
def test_the_reference_model_has_a_head_like_the_policys(wide: bool, tiny: Path) -> None:
    """Else their KL would be one of roundings."""
    trainer = Trainer(TrainerConfig(model_dir=str(tiny), device="cpu", threads=1, reference=True, head_float32=wide))
    assert trainer.reference is not None
    assert trainer.reference.head_float32 == trainer.policy.head_float32 == wide
