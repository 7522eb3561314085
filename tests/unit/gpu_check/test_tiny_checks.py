"""The checks' own code on a CPU in tiny sizes, in this process; and the pure arithmetic behind their figures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gpu.agreement import agreement, choices, model_of, same_weights
from gpu.batches import draw_batch
from gpu.checks import packed, step
from gpu.finding import Figure
from gpu.flops import matmul_parameters, peak_flops, step_flops
from gpu.kernels import kind_of
from gpu.models import SHAPES, TINY, write_model
from gpu.place import Place
from toolorchestra.trainer.batch import TrainSample
from toolorchestra.trainer.trainer import Trainer, TrainerConfig


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "scratch").mkdir()
    return Place(device="cpu", tiny=True, folder=tmp_path, scratch=tmp_path / "scratch", subject="1.7B")


def by_name(found: object) -> dict[str, Figure]:
    assert isinstance(found, Iterator)
    return {figure.name: figure for figure in found if isinstance(figure, Figure)}


def test_packed_equals_dense(place: Place) -> None:
    found = by_name(packed.check(place))
    held = {name: figure for name, figure in found.items() if figure.met is not None}
    assert len(held) == 6
    assert all(figure.met for figure in held.values()), held


def test_the_bars_of_packed_can_be_missed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that is off by a hundredth of a nat is seen."""
    real = packed.packed

    def off(*args: object) -> packed.Answer:
        found = real(*args)  # type: ignore[arg-type]
        return packed.Answer(found.logprobs + 0.02, found.norm)

    monkeypatch.setattr(packed, "packed", off)
    found = by_name(packed.check(place))
    assert found["float32, packed: largest |Δ log p|"].met is False
    assert found["bfloat16, packed: mean |Δ log p|"].met is False


def test_the_step_is_measured(place: Place) -> None:
    found = by_name(step.check(place))
    kept, again = (found[f"{name} at 1,024: gradient norm"].value for name in ("kept", "checkpointed"))
    assert kept == pytest.approx(again, rel=1e-2), "a few steps at 1e-6 apart"
    assert float(str(found["kept at 1,024: speed"].value)) > 0
    shares = [float(str(f.value)) for f in found.values() if f.unit == "of the kernels' time"]
    assert sum(shares) == pytest.approx(1)


def test_what_does_not_fit_is_tried_smaller_and_then_checkpointed() -> None:
    case, tried = step.Case(budget=16_384, checkpointing=False), []
    for _ in range(5):
        case = step.smaller(case)
        tried.append(case.name)
    assert tried == [
        "kept at 12,288",
        "kept at 8,192",
        "kept at 6,144",
        "kept at 4,096",
        "checkpointed at 16,384",
    ]
    with pytest.raises(MemoryError):
        step.smaller(step.Case(budget=4_096, checkpointing=True))


def test_the_batch_is_that_of_the_record() -> None:
    """136,135 tokens, 72,135 trained; 5.20 s a step were 271 TFLOP/s (design page)."""
    samples = draw_batch(8, vocabulary=SHAPES["1.7B"].vocabulary)
    lengths, trained = [len(s.token_ids) for s in samples], sum(s.trained_tokens for s in samples)
    assert (sum(lengths), trained) == (136_135, 72_135)
    assert step_flops(SHAPES["1.7B"], lengths, trained=trained) / 5.20 == pytest.approx(271e12, rel=0.01)


def test_shapes_are_the_published_ones() -> None:
    def parameters(name: str) -> int:
        return sum(math.prod(size) for _, size in SHAPES[name].tensors())

    assert parameters("0.6B") == 596_049_920
    assert parameters("1.7B") == 1_720_574_976
    assert parameters("4B") == 4_022_468_096
    assert matmul_parameters(SHAPES["1.7B"]) == 28 * (2 * 2048 * 2048 + 2 * 2048 * 1024 + 3 * 2048 * 6144)


def test_the_table_of_cards_takes_the_variant() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("Voodoo 2") is None


def test_kernels_have_kinds() -> None:
    assert kind_of("nvjet_tst_128x256_64x4_1x2_h_bz_coopA_NNT") == "matrix products"
    assert kind_of("void pytorch_flash::flash_fwd_kernel<…>") == "attention"
    assert kind_of("void at::native::elementwise_kernel<…bfloat16_copy_kernel_cuda…>") == "copies"
    assert kind_of("_rms_norm_forward_kernel") == "other kernels"


def test_agreement_is_of_the_sampled_tokens() -> None:
    found = agreement([0.1, -0.1, 0.0, 0.2])
    assert found.mean == pytest.approx(0.1)
    assert found.rms == pytest.approx(math.sqrt(0.06 / 4))
    assert found.p99 == pytest.approx(0.2)
    assert found.k3 == pytest.approx(sum(math.exp(d) - 1 - d for d in (0.1, -0.1, 0.0, 0.2)) / 4)
    assert agreement([0.0]).k3 == 0


def test_choices_and_weights_tell_other_weights_apart(tmp_path: Path) -> None:
    ours = write_model(tmp_path / "ours", TINY, device="cpu", dtype=torch.float32, spread=0.1)
    other = write_model(tmp_path / "other", TINY, device="cpu", dtype=torch.float32, spread=0.1, seed=1)
    models = {
        path: model_of(path / "model.safetensors", path, device="cpu", dtype=torch.float32) for path in (ours, other)
    }
    prompt = [5, 6, 7, 8]
    said = models[ours].generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False, eos_token_id=None)
    ids = said[0].tolist()  # type: ignore[index]
    sample = TrainSample(ids, [False] * 4 + [True] * 12, [0.0] * 16)
    assert choices(models[ours], [sample]).equal == 1
    found = choices(models[other], [sample])
    assert found.equal < 0.5
    assert found.worst > 1
    trainer = Trainer(TrainerConfig(model_dir=str(ours), device="cpu"))
    assert same_weights(ours / "model.safetensors", trainer, dtype=torch.float32) == 1
    assert same_weights(other / "model.safetensors", trainer, dtype=torch.float32) < 0.6  # gains are alike
