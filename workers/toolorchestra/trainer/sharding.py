"""FSDP2 around a policy: what is sharded, when whole compute weights are made and dropped, where gradients add up.

Invariant: outside a forward and its backward, a policy's parameters are the sharded float32 masters. After a forward,
FSDP2 leaves the root's parameters (embedding, last norm, head) whole, and only a backward shards them again. So after a
forward without a backward, call `settle`; otherwise the next reader of `parameters()` gets compute copies.

If `keep` is set (one rank; footprint.py decides), the compute copies stay from a step's first micro-batch to its last,
and gradients add up in float32. Then the cast to bfloat16 and the reduction happen once per step, not in every forward
and backward.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from toolorchestra.trainer.model import Policy

MIXED = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
"""Compute in bfloat16; sum gradients in float32, over micro-batches and ranks."""


def shard(policy: Policy, mesh: DeviceMesh, precision: MixedPrecisionPolicy, *, keep: bool = False) -> None:
    """Shard the policy block by block over the mesh, in place. `keep`: blocks stay whole from forward to backward."""
    for block in policy.blocks:
        fully_shard(block, mesh=mesh, mp_policy=precision, reshard_after_forward=not keep)
    fully_shard(policy, mesh=mesh, mp_policy=precision, reshard_after_forward=False)


def settle(module: nn.Module) -> None:
    """Return to sharded masters after a forward without a backward. Does nothing if nothing is sharded."""
    for each in module.modules():
        if isinstance(each, FSDPModule):
            each.reshard()


def masters(policy: nn.Module) -> list[nn.Parameter]:
    """Return the trained parameters, for an optimizer. RuntimeError if compute copies are in their place."""
    found = [p for p in policy.parameters() if p.requires_grad]
    if isinstance(policy, FSDPModule) and not all(isinstance(p, DTensor) for p in found):
        raise RuntimeError("the policy's parameters are compute copies: call settle() before asking for its masters")
    return found


@dataclass(frozen=True)
class Accumulation:
    """What all micro-batches of a step, except the last, leave out."""

    sync_once: bool
    """Gradients are reduced in the last micro-batch only; until then they are whole on every rank."""
    keep: bool
    """Compute copies stay until the last micro-batch."""

    def before(self, policy: nn.Module, *, last: bool) -> None:
        """Prepare a micro-batch. Call before its forward."""
        if isinstance(policy, FSDPModule):
            if self.sync_once:
                policy.set_requires_gradient_sync(last)
            if self.keep:
                policy.set_reshard_after_backward(last)
