"""The train step on random weights in a published shape: tokens/s, MFU, peak memory against the plan, kernels."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from gpu.batches import draw_batch
from gpu.finding import Figure, Finding, Note
from gpu.flops import peak_flops, step_flops
from gpu.kernels import kernels
from gpu.memory_plans import Planned, planned
from gpu.models import SHAPES, TINY, Shape, write_model
from gpu.place import Place
from gpu.trainers import trainer_of
from toolorchestra.trainer.batch import StepConfig, StepMetrics, TrainSample
from toolorchestra.trainer.packing import plan_batches
from toolorchestra.trainer.trainer import Trainer

BUDGETS = (16_384, 12_288, 8_192, 6_144, 4_096)
"""Tokens of a micro-batch: the first that the plan lets through without checkpointing is taken."""
MFU = 0.30
PLAN = 0.10
"""Share of the measured peak that the plan may be off."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way of making the step."""

    budget: int
    checkpointing: bool
    warm_up: int = 1
    steps: int = 3

    @property
    def name(self) -> str:
        return f"{'checkpointed' if self.checkpointing else 'kept'} at {self.budget:,}"


@dataclass(frozen=True, kw_only=True)
class Timed:
    """Seconds of each step, the last step's metrics, and bytes of the allocator's peak."""

    seconds: list[float]
    metrics: StepMetrics
    peak: int


def check(place: Place) -> Iterator[Finding]:
    shape = TINY if place.tiny else SHAPES[place.subject]
    began = time.perf_counter()
    folder = write_model(place.scratch / "model", shape, device=place.device)
    yield Figure(name="weights drawn and written", value=time.perf_counter() - began, unit="s")
    samples = batch_of(shape, place)
    yield Figure(name="tokens of the batch", value=sum(len(s.token_ids) for s in samples))
    yield Figure(name="trained tokens", value=sum(s.trained_tokens for s in samples))
    first, second = cases(folder, samples, place)
    while True:
        began = time.perf_counter()
        trainer = trainer_of(place, folder, checkpointing=first.checkpointing)
        yield Figure(name="trainer ready", value=time.perf_counter() - began, unit="s")
        timed = attempt(trainer, samples, first, place)
        if isinstance(timed, Timed):
            break
        yield Note(name=f"out of memory, {first.name}", text=timed)
        first = smaller(first)
        del trainer  # all of it: what broke off half-way is in no known state
        gc.collect()
        torch.cuda.empty_cache()
    yield from figures(first, timed, shape, samples, folder, place, main=True)
    yield from profile(trainer, samples, first, place)
    if second is not None and second != first:
        if second.checkpointing and not first.checkpointing:  # as load_policy asks for it
            trainer.policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        timed = measure(trainer, samples, second, place)
        yield from figures(second, timed, shape, samples, folder, place, main=False)


def batch_of(shape: Shape, place: Place) -> list[TrainSample]:
    if place.tiny:
        return draw_batch(2, vocabulary=shape.vocabulary, prompt_tokens=40, median=30, siblings=4)
    return draw_batch(8 if place.subject == "1.7B" else 4, vocabulary=shape.vocabulary)


def cases(folder: Path, samples: Sequence[TrainSample], place: Place) -> tuple[Case, Case | None]:
    """Without checkpointing, if any budget fits so, and with it at the largest; the small model alone needs but one."""
    budgets = (1024, 512) if place.tiny else BUDGETS
    kept = [Case(budget=b, checkpointing=False) for b in budgets]
    again = Case(budget=budgets[0], checkpointing=True, steps=2)
    if not place.cuda:
        return kept[0], again
    plans = [(case, _plan(folder, samples, case)) for case in kept]
    fitting = next((case for case, plan in plans if plan.fits), None)
    if fitting is None:
        return again, None
    return fitting, again if place.subject == "1.7B" else None


def smaller(case: Case) -> Case:
    """What to try where the case does not fit; MemoryError where nothing is left."""
    rest = [budget for budget in BUDGETS if budget < case.budget]
    if not rest and case.checkpointing:
        raise MemoryError(f"even {case.name} does not fit")
    if not rest:
        return Case(budget=BUDGETS[0], checkpointing=True, steps=2)
    return Case(budget=rest[0], checkpointing=case.checkpointing, steps=case.steps)


def largest_batch(samples: Sequence[TrainSample], budget: int, hidden: int) -> int:
    """Tokens of the largest micro-batch that the trainer makes of them on CUDA."""
    lengths = [len(sample.token_ids) for sample in samples]
    [parts] = plan_batches(lengths, ranks=1, token_budget=budget, hidden_size=hidden)
    return max(sum(lengths[i] for i in part) for part in parts)


def _plan(folder: Path, samples: Sequence[TrainSample], case: Case) -> Planned:
    return planned(
        folder,
        gpu_bytes=torch.cuda.mem_get_info()[1],
        tokens=case.budget,
        longest=max(len(sample.token_ids) for sample in samples),
        checkpointing=case.checkpointing,
    )


def measure(trainer: Trainer, samples: Sequence[TrainSample], case: Case, place: Place) -> Timed:
    """Warm up, then time whole steps."""
    config = StepConfig(lr=1e-6, token_budget=case.budget)
    for _ in range(case.warm_up):
        metrics = trainer.step(samples, config)
    if place.cuda:
        torch.cuda.reset_peak_memory_stats()
    seconds = []
    for _ in range(1 if place.tiny else case.steps):
        began = time.perf_counter()
        metrics = trainer.step(samples, config)
        if place.cuda:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    peak = torch.cuda.max_memory_allocated() if place.cuda else 0
    return Timed(seconds=seconds, metrics=metrics, peak=peak)


def attempt(trainer: Trainer, samples: Sequence[TrainSample], case: Case, place: Place) -> Timed | str:
    """The same, or what the allocator said where the memory does not do."""
    try:
        return measure(trainer, samples, case, place)
    except torch.OutOfMemoryError as error:
        return str(error)


def figures(
    case: Case,
    timed: Timed,
    shape: Shape,
    samples: Sequence[TrainSample],
    folder: Path,
    place: Place,
    *,
    main: bool,
) -> Iterator[Finding]:
    """`main`: the case that the bars are for."""
    lengths = [len(sample.token_ids) for sample in samples]
    seconds = statistics.median(timed.seconds)
    flops = step_flops(shape, lengths, trained=sum(s.trained_tokens for s in samples))
    card = torch.cuda.get_device_name() if place.cuda else "CPU"
    ceiling = peak_flops(card)
    bar = place.bar(MFU) if main and place.subject == "1.7B" else None
    yield Figure(name=f"{case.name}: a step", value=seconds, unit="s")
    yield Figure(name=f"{case.name}: speed", value=sum(lengths) / seconds, unit="tokens/s")
    yield Figure(name=f"{case.name}: work", value=flops / seconds / 1e12, unit="TFLOP/s, causal")
    if ceiling is not None:
        yield Figure(name=f"{case.name}: MFU", value=flops / seconds / ceiling, at_least=bar)
    yield Figure(name=f"{case.name}: micro-batches", value=timed.metrics.micro_batches)
    for phase, taken in timed.metrics.seconds.items():
        yield Figure(name=f"{case.name}: {phase}", value=taken, unit="s")
    yield Figure(name=f"{case.name}: gradient norm", value=timed.metrics.grad_norm)
    if place.cuda:
        yield from against_plan(case, timed, samples, folder, place, hidden=shape.hidden)


def against_plan(
    case: Case, timed: Timed, samples: Sequence[TrainSample], folder: Path, place: Place, *, hidden: int
) -> Iterator[Finding]:
    """The measured peak, and what the plan says of the largest micro-batch that there was."""
    yield Figure(name=f"{case.name}: peak", value=timed.peak / 1e9, unit="GB")
    tokens = largest_batch(samples, case.budget, hidden)
    plan = _plan(folder, samples, Case(budget=tokens, checkpointing=case.checkpointing))
    yield Figure(name=f"{case.name}: peak by plan, {tokens:,} tokens", value=plan.peak / 1e9, unit="GB")
    low, high = place.bar(1 - PLAN), place.bar(1 + PLAN)
    yield Figure(name=f"{case.name}: plan over peak", value=plan.peak / timed.peak, at_least=low, at_most=high)
    yield Note(name=f"memory plan, {case.name}", text="\n".join(plan.lines))


def profile(trainer: Trainer, samples: Sequence[TrainSample], case: Case, place: Place) -> Iterator[Finding]:
    """The kernels of a step of one micro-batch."""
    chosen: list[TrainSample] = []
    for sample in samples:
        if sum(len(s.token_ids) for s in chosen) + len(sample.token_ids) <= case.budget:
            chosen.append(sample)
    config = StepConfig(lr=1e-6, token_budget=case.budget)
    yield from kernels(lambda: trainer.step(chosen, config), cuda=place.cuda)
