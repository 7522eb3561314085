"""FSDP2 around a policy: what is cut, when whole compute weights are made and dropped, where gradients add up.

Invariant: outside of a forward and its backward, a policy's parameters are the sharded float32 masters. FSDP2 leaves
the root's (embedding, last norm, head) whole after a forward, and only a backward takes them back: whoever runs a
forward that no backward follows calls `settle`, or the next reader of `parameters()` finds compute copies.

Where `keep` is set (one rank, footprint.py says when), the compute copies live from a step's first micro-batch to its
last, and gradients add up in float32 beside them: the cast to bfloat16 and the reduction happen once a step instead of
in every forward and backward.
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
"""bfloat16 compute; gradients are summed in float32, over micro-batches and ranks."""


def shard(policy: Policy, mesh: DeviceMesh, precision: MixedPrecisionPolicy, *, keep: bool = False) -> None:
    """Cut the policy block by block over the mesh, in place. `keep`: blocks stay whole from forward to backward."""
    for block in policy.blocks:
        fully_shard(block, mesh=mesh, mp_policy=precision, reshard_after_forward=not keep)
    fully_shard(policy, mesh=mesh, mp_policy=precision, reshard_after_forward=False)


def settle(module: nn.Module) -> None:
    """Back to sharded masters, after a forward that no backward follows. Nothing where nothing is sharded."""
    for each in module.modules():
        if isinstance(each, FSDPModule):
            each.reshard()


def masters(policy: nn.Module) -> list[nn.Parameter]:
    """What an optimizer is given: the trained parameters. RuntimeError where compute copies stand in their place."""
    found = [p for p in policy.parameters() if p.requires_grad]
    if isinstance(policy, FSDPModule) and not all(isinstance(p, DTensor) for p in found):
        raise RuntimeError("the policy's parameters are compute copies: settle() it before its masters are asked for")
    return found


@dataclass(frozen=True)
class Accumulation:
    """What a step's micro-batches but the last leave undone."""

    sync_once: bool
    """Gradients are reduced in the last one alone; until then they are whole on every rank."""
    keep: bool
    """Compute copies stay until the last one."""

    def before(self, policy: nn.Module, *, last: bool) -> None:
        """To be called before a micro-batch's forward."""
        if isinstance(policy, FSDPModule):
            if self.sync_once:
                policy.set_requires_gradient_sync(last)
            if self.keep:
                policy.set_reshard_after_backward(last)
