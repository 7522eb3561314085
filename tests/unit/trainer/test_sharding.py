"""FSDP2 on one CPU rank, in bfloat16 as on CUDA: which parameters a policy has when, and what its gradients are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

from support.train_samples import random_batch
from toolorchestra.trainer.footprint import keeps_compute_weights
from toolorchestra.trainer.model import Policy, load_policy
from toolorchestra.trainer.packing import PackedBatch, pack
from toolorchestra.trainer.sharding import MIXED, Accumulation, masters, settle, shard


@pytest.fixture
def mesh() -> Iterator[DeviceMesh]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.fixture
def batches() -> list[PackedBatch]:
    return [pack(random_batch(seed, 4), [0.1] * 4) for seed in range(3)]


def sharded(
    folder: Path, mesh: DeviceMesh, precision: MixedPrecisionPolicy = MIXED, *, keep: bool, checkpointing: bool = False
) -> Policy:
    policy = load_policy(folder, gradient_checkpointing=checkpointing).train()
    shard(policy, mesh, precision, keep=keep)
    return policy


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def accumulate(policy: Policy, batches: Sequence[PackedBatch], how: Accumulation) -> dict[str, torch.Tensor]:
    for number, batch in enumerate(batches, 1):
        how.before(policy, last=number == len(batches))
        logprobs, entropy = policy(batch)
        (logprobs.sum() + 0.1 * entropy.sum()).backward()
    assert len(masters(policy)) == len(list(policy.parameters()))
    return {name: whole(p.grad) for name, p in policy.named_parameters() if p.grad is not None}


def test_a_forward_alone_leaves_compute_copies_until_it_is_settled(
    tiny: Path, mesh: DeviceMesh, batches: list[PackedBatch]
) -> None:
    """An optimizer that is made of them would train neither embedding nor head: their gradients go to the masters."""
    for keep in (False, True):
        policy = sharded(tiny, mesh, keep=keep)
        with torch.no_grad():
            policy(batches[0])
        with pytest.raises(RuntimeError, match="compute copies"):
            masters(policy)
        settle(policy)
        assert {p.dtype for p in masters(policy)} == {torch.float32}


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("keep", [False, True])
def test_gradients_of_one_exchange_are_those_of_many(
    tied: bool, keep: bool, tiny: Path, tiny_tied: Path, mesh: DeviceMesh, batches: list[PackedBatch]
) -> None:
    """In float32: bfloat16 gradients are not added up in bfloat16."""
    folder = tiny_tied if tied else tiny
    want = accumulate(sharded(folder, mesh, keep=False), batches, Accumulation(sync_once=False, keep=False))
    got = accumulate(sharded(folder, mesh, keep=keep), batches, Accumulation(sync_once=True, keep=keep))
    assert got.keys() == want.keys()
    for name, grad in got.items():
        assert grad.dtype == torch.float32
        torch.testing.assert_close(grad, want[name], atol=0, rtol=1e-6)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_sharding_and_checkpointing_change_no_gradient(
    keep: bool, checkpointing: bool, tiny_tied: Path, mesh: DeviceMesh, batches: list[PackedBatch]
) -> None:
    policy = sharded(tiny_tied, mesh, MixedPrecisionPolicy(), keep=keep, checkpointing=checkpointing)
    got = accumulate(policy, batches, Accumulation(sync_once=True, keep=keep))
    want = accumulate(load_policy(tiny_tied).train(), batches, Accumulation(sync_once=True, keep=keep))
    assert got.keys() == want.keys()
    for name, grad in got.items():
        torch.testing.assert_close(grad, want[name], atol=1e-5, rtol=1e-4)


def test_the_next_step_computes_with_the_new_weights(tiny: Path, mesh: DeviceMesh, batches: list[PackedBatch]) -> None:
    """Copies that are kept between micro-batches are dropped before the weights move."""
    how = Accumulation(sync_once=True, keep=True)
    policies = [sharded(tiny, mesh, keep=keep) for keep in (True, False)]
    for policy in policies:
        optimizer = torch.optim.AdamW(masters(policy), lr=1e-2)
        for _ in range(2):
            accumulate(policy, batches, how if policy is policies[0] else Accumulation(sync_once=True, keep=False))
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    for one, other in zip(*(policy.parameters() for policy in policies), strict=True):
        torch.testing.assert_close(whole(one), whole(other), atol=0, rtol=0)


def test_compute_copies_are_kept_where_half_the_memory_holds_all_state() -> None:
    gib = 1 << 30
    assert keeps_compute_weights(1_720_000_000, gpu_bytes=80 * gib, ranks=1)
    assert not keeps_compute_weights(4_000_000_000, gpu_bytes=80 * gib, ranks=1)
    assert not keeps_compute_weights(1_720_000_000, gpu_bytes=80 * gib, ranks=2)
