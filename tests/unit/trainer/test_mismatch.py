"""Trainer against engine: the formula by hand, what it does not depend on, and which tokens it is taken over."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from support.synthetic_traces import trace
from support.train_samples import fresh_places, random_batch, sibling_batch, some_fresh
from toolorchestra.controller.assemble import SampleFilters, train_samples
from toolorchestra.controller.monitoring.stats import mismatch_figures
from toolorchestra.policy.version import PolicyVersion
from toolorchestra.rollout.trace import Sample, Segment
from toolorchestra.trainer.batch import Mismatch, StepConfig, TrainSample
from toolorchestra.trainer.family import families
from toolorchestra.trainer.objectives.clipped import Clipped
from toolorchestra.trainer.objectives.mismatch import mismatch_sums
from toolorchestra.trainer.objectives.objective import LossInputs
from toolorchestra.trainer.packing import PackedBatch, pack, plan_batches, token_weights
from toolorchestra.trainer.trainer import Trainer, TrainerConfig

NATS = st.floats(-40.0, 0.0, width=32)


def inputs(trainer: Sequence[float], engine: Sequence[float], fresh: Sequence[bool] | None = None) -> LossInputs:
    logprobs, nothing = torch.tensor(trainer), torch.zeros(len(trainer))
    mask = torch.tensor([True] * len(trainer) if fresh is None else list(fresh), dtype=torch.bool)
    return LossInputs(logprobs, nothing, torch.tensor(engine), nothing, nothing, fresh=mask)


def mismatch(of: LossInputs) -> Mismatch | None:
    return Mismatch.of({name: float(value) for name, value in mismatch_sums(of).items()})


def by_hand(pairs: Sequence[tuple[float, float]]) -> Mismatch:
    """From (trainer's, engine's) log probabilities."""
    ds = [trainer - engine for trainer, engine in pairs]
    k3 = math.fsum(math.expm1(d) - d for d in ds) / len(ds)
    return Mismatch(k3=k3, rms=math.sqrt(math.fsum(d * d for d in ds) / len(ds)), tokens=len(ds))


def assert_same(found: Mismatch | None, wanted: Mismatch, *, rel: float = 1e-9) -> None:
    assert found is not None
    assert found.k3 == pytest.approx(wanted.k3, rel=rel, abs=1e-15)
    assert found.rms == pytest.approx(wanted.rms, rel=rel, abs=1e-15)
    assert found.tokens == wanted.tokens


def test_the_trainer_is_above_the_engine_in_the_ratio() -> None:
    """k3 is lopsided: e - 2 where the trainer gives the token e times the engine's probability, 1 / e the other way."""
    more, less = mismatch(inputs([-1.0], [-2.0])), mismatch(inputs([-2.0], [-1.0]))
    assert_same(more, Mismatch(k3=math.e - 2, rms=1.0, tokens=1))
    assert_same(less, Mismatch(k3=math.exp(-1), rms=1.0, tokens=1))


def test_it_estimates_the_divergence_of_the_trainer_from_the_engine() -> None:
    torch.manual_seed(0)
    engine, trainer = torch.randn(2, 30, dtype=torch.float64).log_softmax(-1)
    exact = float((engine.exp() * (engine - trainer)).sum())  # the other way round it is 1 % more
    each = [mismatch(inputs([float(t)], [float(e)])) for t, e in zip(trainer, engine, strict=True)]
    expected = sum(float(e.exp()) * one.k3 for e, one in zip(engine, each, strict=True) if one is not None)
    assert expected == pytest.approx(exact, rel=1e-5)


@given(st.lists(st.tuples(NATS, NATS), min_size=1, max_size=8))
def test_it_is_never_negative_and_nothing_only_where_both_are_equal(pairs: list[tuple[float, float]]) -> None:
    found = mismatch(inputs([p for p, _ in pairs], [e for _, e in pairs]))
    assert found is not None
    assert found.tokens == len(pairs)
    assert found.k3 >= 0
    equal = all(p == e for p, e in pairs)
    assert (found.rms == 0) == equal
    # Nearer than this no two float32 numbers are that a head makes of logits; there even float64 is all rounding.
    if equal or max(abs(p - e) for p, e in pairs) > 1e-7:
        assert (found.k3 == 0) == equal


@given(st.floats(-1.0, 0.0, width=32), st.floats(-1e-4, 1e-4))
def test_what_is_healthy_is_no_rounding(logprob: float, d: float) -> None:
    near = float(np.float32(logprob + d))
    assert_same(mismatch(inputs([near], [logprob])), by_hand([(near, logprob)]), rel=1e-6)


TOKENS = st.tuples(NATS, NATS, st.booleans())


@given(st.lists(TOKENS, min_size=1, max_size=8), st.sampled_from([math.nan, -math.inf, 3.0]))
def test_other_tokens_do_not_count_whatever_they_say(tokens: list[tuple[float, float, bool]], odd: float) -> None:
    """Not their values, not their number; none of them fresh is no mismatch, and not one of 0."""
    own = [p if f else odd for p, _, f in tokens]
    found = mismatch(inputs(own, [e for _, e, _ in tokens], [f for *_, f in tokens]))
    pairs = [(p, e) for p, e, f in tokens if f]
    if not pairs:
        assert found is None
    else:
        alone = mismatch(inputs([p for p, _ in pairs], [e for _, e in pairs]))
        assert alone is not None
        assert_same(found, alone)


def test_one_absurd_token_stays_a_number() -> None:
    found = mismatch(inputs([-1.0, -1.0], [-9000.0, -1.0]))
    assert_same(found, Mismatch(k3=(math.expm1(20) - 20) / 2, rms=20 / math.sqrt(2), tokens=2))


def test_nobody_who_does_not_know_is_asked() -> None:
    assert mismatch_sums(dataclasses.replace(inputs([-1.0], [-2.0]), fresh=None)) == {}
    assert Mismatch.of({"entropy": 1.0}) is None


def test_it_changes_no_loss() -> None:
    given_ = dataclasses.replace(inputs([-1.0, -2.0], [-1.5, -1.5], [True, False]), weights=torch.tensor([0.5, 0.5]))
    known, unknown = Clipped()(given_), Clipped()(dataclasses.replace(given_, fresh=None))
    assert torch.equal(known.loss, unknown.loss)
    assert known.sums.keys() - unknown.sums.keys() == {"fresh", "fresh_k3", "fresh_square"}


# ── through packing ────────────────────────────────────────────────────────────────────────────────────────────────


def counted_in(samples: Sequence[TrainSample]) -> list[tuple[int, int]]:
    """(sample, position) of what counts."""
    return [(i, t) for i, sample in enumerate(samples) for t in fresh_places(sample)]


def trainers_logprobs(targets: Tensor, sampler: Tensor) -> Tensor:
    """A trainer that differs from the engine by something that depends on the token alone."""
    return sampler + 0.1 * torch.sin(targets.float())


def sums_of(batch: PackedBatch) -> Counter[str]:
    """As a step adds them up."""
    logprobs, nothing = trainers_logprobs(batch.targets, batch.sampler_logprobs), torch.zeros(len(batch.targets))
    given_ = LossInputs(logprobs, nothing, batch.sampler_logprobs, nothing, nothing, fresh=batch.fresh)
    return Counter({name: float(value) for name, value in mismatch_sums(given_).items()})


@given(seed=st.integers(0, 10**6), ranks=st.integers(1, 3), budget=st.integers(20, 400))
def test_it_does_not_depend_on_packing_micro_batches_or_ranks(seed: int, ranks: int, budget: int) -> None:
    mixed = [*random_batch(seed, 4, longest=30), *sibling_batch(seed, groups=1, siblings=3)]
    samples = some_fresh(mixed, seed=seed)
    counted = counted_in(samples)
    units = families(samples, limit=budget)
    lengths = [len(s.token_ids) for s in samples]
    plan = plan_batches([u.tokens(lengths) for u in units], ranks=ranks, token_budget=budget, hidden_size=64)
    weights = token_weights(samples, "token_mean")
    total = Counter[str]()
    for step in (part for of_rank in plan for part in of_rank):
        total.update(sums_of(pack(samples, weights, [units[i] for i in step])))
    found = Mismatch.of(total)
    if not counted:
        assert found is None
        return
    engine = torch.tensor([samples[i].logprobs[t] for i, t in counted])
    own = trainers_logprobs(torch.tensor([samples[i].token_ids[t] for i, t in counted]), engine)
    assert_same(found, by_hand(list(zip(own.tolist(), engine.tolist(), strict=True))))


def test_fields_of_a_sample_align() -> None:
    with pytest.raises(ValueError, match="align"):
        TrainSample([1, 2], [False, True], [0.0, -1.0], fresh=[True])


# ── from traces ────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_version_that_sampled_a_token_decides() -> None:
    """Also within one output that an update fell into, and in another life, whose versions are others'."""
    parts = [(None, 3), ("0-4", 2), ("0-5", 4), (None, 2), ("1-5", 1), ("0-5", 2), ("0-6", 1)]
    segments = [
        Segment(token_ids=(7,) * n, trained=True, logprobs=(-1.0,) * n, version=version)
        if version
        else Segment(token_ids=(7,) * n)
        for version, n in parts
    ]
    told = trace(task=0, pool="sorter").model_copy(update={"samples": (Sample(segments=tuple(segments)),)})
    of_step = partial(train_samples, told, advantage=1.0, filters=SampleFilters())
    (sample,) = of_step(version=PolicyVersion(0, 5))
    assert list(sample.fresh) == [version == "0-5" for version, n in parts for _ in range(n)]
    (sample,) = of_step()
    assert not any(sample.fresh)


def test_what_was_not_measured_has_no_figure() -> None:
    assert mismatch_figures(None) == {}
    assert mismatch_figures(Mismatch(k3=0.5, rms=1.5, tokens=3)) == {
        "mismatch_k3": 0.5,
        "mismatch_rms": 1.5,
        "mismatch_tokens": 3,
    }


# ── of a step ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_step_says_it_of_the_weights_that_it_begins_with(tiny: Path) -> None:
    samples = some_fresh(random_batch(3, 12), seed=3)
    counted = counted_in(samples)
    assert 0 < len(counted) < sum(s.trained_tokens for s in samples)
    for budget in (100_000, 130):
        one = Trainer(TrainerConfig(model_dir=str(tiny), device="cpu", threads=1))
        own = one.logprobs(samples)
        metrics = one.step(samples, StepConfig(lr=1e-2, token_budget=budget, aggregation="sequence_mean"))
        assert (metrics.micro_batches == 1) is (budget == 100_000)
        assert_same(metrics.mismatch, by_hand([(own[i][t], samples[i].logprobs[t]) for i, t in counted]), rel=1e-5)
        stale = [dataclasses.replace(sample, fresh=()) for sample in samples]
        assert one.step(stale, StepConfig()).mismatch is None


def test_on_policy_it_is_tiny(tiny: Path) -> None:
    one = Trainer(TrainerConfig(model_dir=str(tiny), device="cpu", threads=1))
    samples = [dataclasses.replace(s, fresh=[True] * len(s.token_ids)) for s in random_batch(4, 8)]
    found = one.logprobs(samples)
    metrics = one.step([dataclasses.replace(s, logprobs=found[i]) for i, s in enumerate(samples)], StepConfig())
    assert metrics.mismatch is not None
    assert metrics.mismatch.k3 < 1e-10
    assert metrics.mismatch.rms < 1e-5
    assert metrics.mismatch.tokens == metrics.trained_tokens
