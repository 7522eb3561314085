"""The learning rate over the steps: against torch's own schedulers, and in its bounds for all settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, SequentialLR

from toolorchestra.trainer.schedule import Schedule


def rates(schedule: Schedule) -> list[float]:
    return [schedule.rate(step) for step in range(schedule.steps)]


def torch_rates(build: Callable[[torch.optim.Optimizer], LRScheduler], steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    scheduler = build(optimizer)
    found = []
    for _ in range(steps):
        found.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return found


def test_linear_and_cosine_are_torchs() -> None:
    linear = torch_rates(lambda o: LinearLR(o, start_factor=1.0, end_factor=0.1, total_iters=20), 20)
    assert rates(Schedule(peak=1.0, steps=20, decay="Linear", final=0.1)) == pytest.approx(linear)
    cosine = torch_rates(lambda o: CosineAnnealingLR(o, T_max=20, eta_min=0.1), 20)
    assert rates(Schedule(peak=1.0, steps=20, decay="Cosine", final=0.1)) == pytest.approx(cosine)


def test_warm_up_plateau_decay_is_torchs() -> None:
    def build(optimizer: torch.optim.Optimizer) -> LRScheduler:
        parts: list[LRScheduler] = [
            LinearLR(optimizer, start_factor=0.25, end_factor=1.0, total_iters=3),
            LinearLR(optimizer, start_factor=1.0, end_factor=0.5, total_iters=5),
        ]
        return SequentialLR(optimizer, parts, milestones=[10])

    schedule = Schedule(peak=1.0, steps=15, warmup=4, decay="Linear", decay_steps=5, final=0.5)
    assert rates(schedule) == pytest.approx(torch_rates(build, 15))


@given(
    steps=st.integers(1, 50),
    warmup=st.integers(0, 60),
    decay=st.sampled_from(["None", "Linear", "Cosine"]),
    decay_steps=st.none() | st.integers(1, 60),
    final=st.floats(0, 1),
)
def test_it_rises_then_falls_within_bounds(
    steps: int, warmup: int, decay: Literal["None", "Linear", "Cosine"], decay_steps: int | None, final: float
) -> None:
    schedule = Schedule(peak=2.0, steps=steps, warmup=warmup, decay=decay, decay_steps=decay_steps, final=final)
    found = rates(schedule)
    assert all(0 < rate <= 2.0 for rate in found)
    rise, rest = found[:warmup], found[warmup:]
    assert rise == sorted(rise)
    assert rest == sorted(rest, reverse=True)
    assert all(rate >= 2.0 * final * (1 - 1e-9) for rate in rest)
