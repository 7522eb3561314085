from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.train_samples import random_batch, sibling_batch
from toolorchestra.trainer.batch import TrainSample
from toolorchestra.trainer.family import families
from toolorchestra.trainer.packing import pack, plan_batches, sequence_cost, token_weights

LENGTHS = st.lists(st.integers(2, 300), min_size=1, max_size=60)


@given(lengths=LENGTHS, ranks=st.integers(1, 4), budget=st.integers(10, 400))
def test_a_plan_holds_every_sequence_once_and_pairs_up(lengths: list[int], ranks: int, budget: int) -> None:
    plan = plan_batches(lengths, ranks=ranks, token_budget=budget, hidden_size=64)
    assert len(plan) == ranks
    assert len({len(steps) for steps in plan}) == 1
    assert sorted(i for steps in plan for part in steps for i in part) == list(range(len(lengths)))
    for steps in plan:
        for part in steps:
            assert sum(lengths[i] for i in part) <= budget or len(part) == 1
            assert [lengths[i] for i in part] == sorted(lengths[i] for i in part)


@given(lengths=LENGTHS, ranks=st.integers(1, 4))
def test_ranks_differ_in_cost_by_less_than_the_dearest_sequence(lengths: list[int], ranks: int) -> None:
    plan = plan_batches(lengths, ranks=ranks, token_budget=10**6, hidden_size=64)
    costs = [sum(sequence_cost(lengths[i], hidden_size=64) for part in steps for i in part) for steps in plan]
    dearest = max(sequence_cost(n, hidden_size=64) for n in lengths)
    assert max(costs) - min(costs) <= dearest + 1e-6


def test_a_plan_uses_few_micro_batches() -> None:
    plan = plan_batches([100] * 16, ranks=2, token_budget=400, hidden_size=64)
    assert [len(steps) for steps in plan] == [2, 2]
    assert all(len(part) == 4 for steps in plan for part in steps)


@given(seed=st.integers(0, 10**6), count=st.integers(1, 12))
def test_packing_keeps_every_trained_token_with_its_context(seed: int, count: int) -> None:
    samples = random_batch(seed, count, longest=30)
    batch = pack(samples, token_weights(samples, "token_mean"))
    assert batch.tokens == sum(len(s.token_ids) for s in samples) == batch.token_ids.numel()
    want = [
        (s.token_ids[i - 1], i - 1, s.token_ids[i], s.logprobs[i], s.advantage)
        for s in samples
        for i in range(len(s.token_ids))
        if s.loss_mask[i]
    ]
    ids, positions = batch.token_ids[0][batch.selected], batch.position_ids[0][batch.selected]
    got = zip(ids, positions, batch.targets, batch.sampler_logprobs, batch.advantages, strict=True)
    for (context, position, target, logprob, advantage), row in zip(want, got, strict=True):
        assert (context, position, target) == (int(row[0]), int(row[1]), int(row[2]))
        assert float(row[3]) == pytest.approx(logprob)
        assert float(row[4]) == pytest.approx(advantage)
    assert float(batch.weights.sum()) == pytest.approx(1, abs=1e-5)


@given(seed=st.integers(0, 10**6), groups=st.integers(1, 4), siblings=st.integers(1, 5), limit=st.integers(1, 300))
def test_families_share_trunks_within_the_limit_and_pack_keeps_every_trained_token(
    seed: int, groups: int, siblings: int, limit: int
) -> None:
    samples = sibling_batch(seed, groups=groups, siblings=siblings)
    lengths = [len(s.token_ids) for s in samples]
    units = families(samples, limit=limit)
    assert sorted(i for unit in units for i in unit.members) == list(range(len(samples)))
    for unit in units:
        assert unit.tokens(lengths) <= limit or len(unit.members) == 1
        assert len({tuple(samples[i].token_ids[: unit.trunk]) for i in unit.members}) == 1
        assert not any(any(samples[i].loss_mask[: unit.trunk]) for i in unit.members)
    batch = pack(samples, token_weights(samples, "token_mean"), units)
    assert batch.tokens == sum(unit.tokens(lengths) for unit in units) == batch.token_ids.numel()
    want = [
        (s.token_ids[i - 1], i - 1, s.token_ids[i], s.logprobs[i], s.advantage)
        for s in (samples[i] for unit in units for i in unit.members)
        for i in range(len(s.token_ids))
        if s.loss_mask[i]
    ]
    ids, positions = batch.token_ids[0][batch.selected], batch.position_ids[0][batch.selected]
    rows = zip(ids, positions, batch.targets, batch.sampler_logprobs, batch.advantages, strict=True)
    for expected, row in zip(want, rows, strict=True):
        assert tuple(float(value) for value in row) == pytest.approx(expected)
    assert float(batch.weights.sum()) == pytest.approx(1, abs=1e-5)


def test_sequence_mean_weighs_sequences_alike() -> None:
    short = TrainSample([1, 2], [False, True], [0, -1.0])
    long = TrainSample([1, 2, 3, 4, 5], [False, True, True, True, True], [0, -1.0, -1.0, -1.0, -1.0])
    untrained = TrainSample([1, 2], [False, False], [0.0, 0.0])
    assert token_weights([short, long, untrained], "sequence_mean") == [0.5, 0.125, 0.0]
    assert token_weights([short, long, untrained], "token_mean")[:2] == [0.2, 0.2]


def test_what_cannot_be_trained_is_refused() -> None:
    with pytest.raises(ValueError, match="align"):
        TrainSample([1, 2, 3], [False, True], [0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="first token"):
        TrainSample([1, 2], [True, True], [0.0, 0.0])
    with pytest.raises(ValueError, match="two tokens"):
        TrainSample([1], [False], [0.0])
    with pytest.raises(ValueError, match="nothing to train"):
        token_weights([TrainSample([1, 2], [False, False], [0.0, 0.0])], "token_mean")
