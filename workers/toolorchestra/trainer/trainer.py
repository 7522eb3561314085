"""The trainer: one process's part of an optimizer step. It runs in-process with one rank, under Ray with any number.

Invariants: every rank gets the whole batch and packs it in the same way. The loss is a mean over the *global* batch,
whatever the number of ranks and micro-batches. A step that is not finite changes nothing. On CUDA, and with more than
one rank, parameters are sharded with FSDP2: float32 master weights and optimizer state; compute is bfloat16 on CUDA,
float32 on the CPU. One CPU rank runs the plain module.
"""

from __future__ import annotations

import logging
import math
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load as load_state
from torch.distributed.checkpoint.state_dict_saver import save as save_state
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy
from torch.distributed.tensor import DTensor

from toolorchestra.trainer.agreement import check_agreement, own_values
from toolorchestra.trainer.batch import Mismatch, NonFiniteStep, StepConfig, StepMetrics, TrainSample
from toolorchestra.trainer.clock import Clock
from toolorchestra.trainer.family import Family, alone, families
from toolorchestra.trainer.footprint import keeps_compute_weights
from toolorchestra.trainer.fused import fuse, usable
from toolorchestra.trainer.model import Policy, load_policy
from toolorchestra.trainer.objectives.build import objective_of
from toolorchestra.trainer.objectives.objective import LossInputs, LossOutputs, Objective
from toolorchestra.trainer.packing import PackedBatch, pack, plan_batches, token_weights
from toolorchestra.trainer.sharding import MIXED, Accumulation, masters, settle, shard
from toolorchestra.weights.export import export_folder
from toolorchestra.weights.snapshot import Snapshot, check_keys, folder_keys
from toolorchestra.weights.writer import write_snapshot

_log = logging.getLogger(__name__)

STATE = "state"
"""Folder for weights and optimizer state in a checkpoint (torch.distributed.checkpoint)."""
FAMILIES_PER_RANK = 4
"""Fewest parts per rank into which a batch is cut, to balance the ranks. A family that is longer is cut."""


@dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Settings of a trainer process. `device` None: CUDA if available, else the CPU."""

    model_dir: str
    device: str | None = None
    threads: int | None = None
    """Torch's compute threads in this process. None: torch's default."""
    gradient_checkpointing: bool = False
    keep_compute_weights: bool | None = None
    """On CUDA: keep the bfloat16 copy of the weights (2 bytes per parameter) through all micro-batches of a step. None:
    with one rank, if footprint.py finds room."""
    fused_kernels: bool = True
    """On CUDA: use liger-kernel for norms, gated MLPs and rotary embeddings, if it is installed (fused.py)."""
    head_float32: bool = False
    """On CUDA: compute the head's products with float32 hidden states and weight (no TF32: several times slower, and
    one more copy of the weight). Even without it logits are not rounded to bfloat16, as in vLLM's float32 head; it only
    adds that their gradient is float32 too."""
    longest: int | None = None
    """Tokens of the longest document of the run, if known: some models compute longer ones differently."""
    reference: bool = False
    """Keep a frozen copy of the initial policy for the KL term, sharded like the policy. It costs the memory of the
    weights again, also in a checkpoint, and one forward pass per step."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """The results of one optimizer step. `sums` and `maxima` are over the global batch."""

    loss: float
    grad_norm: float
    sums: dict[str, float]
    maxima: dict[str, float]
    tokens: int
    trained_tokens: int
    micro_batches: int
    seconds: dict[str, float]


class Trainer:
    """One rank. With several ranks, initialise `torch.distributed` before; then every method is collective."""

    def __init__(self, config: TrainerConfig) -> None:
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        self.config = config
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self.device = torch.device(config.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        folder = Path(config.model_dir)
        self.keys = folder_keys(folder)
        policy = load_policy(
            folder,
            gradient_checkpointing=config.gradient_checkpointing,
            longest=config.longest,
            head_float32=config.head_float32,
        )
        self.accumulation = self._accumulation(sum(p.numel() for p in policy.parameters()))
        self.policy = self._checked(policy).train()
        self.reference = None
        if config.reference:
            self.reference = self._place(
                load_policy(folder, head_float32=config.head_float32), trained=False
            ).requires_grad_(False)
        self.parameters = masters(self.policy)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=0.0, weight_decay=0.0, fused=True)
        self._under_way = False
        """True from a step's first micro-batch until its gradients are cleared; some are inside FSDP2, out of reach."""

    @property
    def sharded(self) -> bool:
        return isinstance(self.policy, FSDPModule)

    def _checked(self, policy: Policy) -> Policy:
        """Place the module after checking that it computes what the model computes. ModelError if it does not."""
        own = own_values(policy)
        check_agreement(policy, own, device=torch.device("cpu"))
        placed = self._place(policy)
        if self.device.type != "cpu":
            check_agreement(placed, own, device=self.device)
            settle(placed)
        return placed

    def _place(self, policy: Policy, *, trained: bool = True) -> Policy:
        """Move the module to the device. With more than one rank, or on CUDA, shard it block by block."""
        if self.device.type == "cpu" and self.world == 1:
            return policy
        if not dist.is_initialized():
            # One CUDA rank needs no network, but sharding, and so mixed precision, needs a process group.
            dist.init_process_group("nccl", store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
        cuda = self.device.type == "cuda"
        if cuda and self.config.fused_kernels and (kernels := usable(self.device, hidden=policy.config.hidden_size)):
            _log.info("fused kernels: %s", fuse(policy.model, kernels))
        mesh = init_device_mesh(self.device.type, (self.world,))
        keep = trained and self.accumulation.keep
        shard(policy, mesh, MIXED if cuda else MixedPrecisionPolicy(), keep=keep)
        return policy

    def _accumulation(self, parameters: int) -> Accumulation:
        """Return when gradients are exchanged. On the CPU, and with one CUDA rank, once per step. With several CUDA
        ranks, at every micro-batch, to save memory."""
        cuda = self.device.type == "cuda"
        keep = self.config.keep_compute_weights
        if cuda and keep is None:
            memory = torch.cuda.get_device_properties(self.device).total_memory
            keep = keeps_compute_weights(parameters, gpu_bytes=memory, ranks=self.world)
        return Accumulation(sync_once=not cuda or self.world == 1, keep=cuda and bool(keep))

    # -- one optimizer step -------------------------------------------------------------------------------------

    def step(self, samples: Sequence[TrainSample], config: StepConfig) -> StepMetrics:
        """Run one optimizer step of the `Clipped` objective on the whole batch. NonFiniteStep: nothing was changed."""
        update = self.update(samples, config, objective_of(config), with_reference=config.kl_coefficient != 0)
        return StepMetrics(
            loss=update.loss,
            grad_norm=update.grad_norm,
            entropy=update.sums["entropy"],
            ratio_mean=update.sums["ratio"],
            ratio_max=update.maxima["ratio"],
            clip_fraction=update.sums["clipped"],
            masked_fraction=update.sums["masked"],
            approx_kl=update.sums["approx_kl"],
            reference_kl=update.sums.get("reference_kl"),
            tokens=update.tokens,
            trained_tokens=update.trained_tokens,
            micro_batches=update.micro_batches,
            mismatch=Mismatch.of(update.sums),
            seconds=update.seconds,
        )

    def update(
        self, samples: Sequence[TrainSample], config: StepConfig, objective: Objective, *, with_reference: bool = False
    ) -> Update:
        """Run forward, backward and optimizer for any objective.

        RuntimeError if an error interrupted the step before: its gradients would be added to this step."""
        if self._under_way:
            raise RuntimeError("an error interrupted a step: make a new trainer from the last checkpoint")
        if with_reference and self.reference is None:
            raise ValueError("a KL term needs a reference: start the trainer with reference=True")
        clock = Clock(self.device)
        with clock.host("pack"):
            weights = token_weights(samples, config.aggregation)
            plan = self._plan(samples, config.token_budget)
        outputs = []
        self._under_way = True
        for number, part in enumerate(plan, 1):
            # One at a time: on CUDA the next one is packed while the device computes this one.
            with clock.host("pack"):
                batch = pack(samples, weights, part).to(self.device)
            self.accumulation.before(self.policy, last=number == len(plan))
            outputs.append(self._backward(batch, objective, clock, with_reference=with_reference))
        if with_reference and self.reference is not None:
            settle(self.reference)
        with clock.phase("optimizer"):
            sums, maxima = self._reduce(outputs)
            grad_norm = self._apply(config, loss=sums["loss"])
        return Update(
            loss=sums.pop("loss"),
            grad_norm=grad_norm,
            sums=sums,
            maxima=maxima,
            tokens=sum(len(sample.token_ids) for sample in samples),
            trained_tokens=sum(sample.trained_tokens for sample in samples),
            micro_batches=len(plan),
            seconds=clock.read(),
        )

    def _plan(self, samples: Sequence[TrainSample], token_budget: int) -> list[list[Family]]:
        """Return this rank's micro-batches."""
        lengths = [len(sample.token_ids) for sample in samples]
        if self.device.type == "cuda":
            units = alone(samples)  # variable-length flash attention does not support shared trunks
        else:
            fair = sum(lengths) // (FAMILIES_PER_RANK * self.world) if self.world > 1 else token_budget
            units = families(samples, limit=min(token_budget, fair))
        plan = plan_batches(
            [unit.tokens(lengths) for unit in units],
            ranks=self.world,
            token_budget=token_budget,
            hidden_size=self.policy.config.hidden_size,
        )

        def root(unit: Family) -> int:
            return unit.trunk or lengths[unit.members[0]]

        return [sorted((units[i] for i in part), key=root) for part in plan[self.rank]]

    def _backward(self, batch: PackedBatch, objective: Objective, clock: Clock, *, with_reference: bool) -> LossOutputs:
        reference = None
        if with_reference and self.reference is not None:
            with clock.phase("reference"), torch.no_grad():
                reference, _ = self.reference(batch)
        with clock.phase("forward"):
            logprobs, entropy = self.policy(batch)
            inputs = LossInputs(
                logprobs=logprobs,
                entropy=entropy,
                sampler_logprobs=batch.sampler_logprobs,
                advantages=batch.advantages,
                weights=batch.weights,
                reference_logprobs=reference,
                fresh=batch.fresh,
            )
            outputs = objective(inputs)
        with clock.phase("backward"):
            # FSDP averages gradients over ranks, but the loss is already a share of the global mean.
            loss = outputs.loss * self.world if self.sharded else outputs.loss
            loss.backward()  # type: ignore[no-untyped-call]
        return outputs

    def _reduce(self, outputs: Sequence[LossOutputs]) -> tuple[dict[str, float], dict[str, float]]:
        """Return sums and maxima over micro-batches and ranks, with one exchange each."""
        sums = {"loss": torch.stack([o.loss.detach() for o in outputs]).sum()}
        sums |= {k: torch.stack([o.sums[k] for o in outputs]).sum() for k in outputs[0].sums}
        maxima = {k: torch.stack([o.maxima[k] for o in outputs]).amax() for k in outputs[0].maxima}
        return self._all(sums, dist.ReduceOp.SUM), self._all(maxima, dist.ReduceOp.MAX)

    def _all(self, values: dict[str, Tensor], operation: Any) -> dict[str, float]:
        if not values:
            return {}
        stacked = torch.stack([value.double() for value in values.values()])
        if self.world > 1:
            dist.all_reduce(stacked, op=operation)
        return dict(zip(values, stacked.tolist(), strict=True))

    def _apply(self, config: StepConfig, *, loss: float) -> float:
        """Clip and apply the gradient. Return its norm before clipping."""
        norm = nn.utils.clip_grad_norm_(self.parameters, config.max_grad_norm)
        grad_norm = float(norm.full_tensor() if isinstance(norm, DTensor) else norm)
        if not (math.isfinite(grad_norm) and math.isfinite(loss)):
            self._end_step()
            raise NonFiniteStep(f"loss {loss}, gradient norm {grad_norm}: the step was not applied")
        for group in self.optimizer.param_groups:
            group.update(lr=config.lr, betas=config.betas, weight_decay=config.weight_decay)
        self.optimizer.step()
        self._end_step()
        return grad_norm

    def _end_step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self._under_way = False

    # -- reading ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def logprobs(self, samples: Sequence[TrainSample], *, token_budget: int = 8192) -> dict[int, list[float]]:
        """Return this rank's share: sample index → log probabilities aligned with its token ids; 0 if not trained."""
        result: dict[int, list[float]] = {}
        for part in self._plan(samples, token_budget):
            batch = pack(samples, [0.0] * len(samples), part).to(self.device)
            values = iter(self.policy(batch)[0].tolist())
            for index in (i for family in part for i in family.members):
                result[index] = [next(values) if trained else 0.0 for trained in samples[index].loss_mask]
        settle(self.policy)
        return result

    def full_tensors(self, dtype: torch.dtype | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield whole parameters under Hugging Face names, tied ones once. Collective: every rank iterates it."""
        settle(self.policy)
        for name, parameter in self.policy.model.named_parameters():
            tensor = parameter.detach() if dtype is None else parameter.detach().to(dtype)  # cast before it is sent
            yield name, tensor.full_tensor() if isinstance(tensor, DTensor) else tensor

    def snapshot(self, folder: Path, *, version: str, dtype: str = "float32") -> Snapshot | None:
        """Write the weights as a snapshot in the engine's `dtype`. Rank 0 returns it, the others None. Collective."""
        keys = {name: tuple(parameter.shape) for name, parameter in self.policy.model.named_parameters()}
        check_keys(keys, self.keys, what=f"snapshot {version}")
        kind: torch.dtype = getattr(torch, dtype)
        tensors = self.full_tensors(kind)
        try:
            if self.rank != 0:
                return None
            pinned = self.device.type == "cuda"
            return write_snapshot(folder, tensors, version=version, keys=keys, dtype=kind, pinned=pinned)
        finally:
            deque(tensors, maxlen=0)  # every rank must take part in every gather, even if writing the file failed

    def export(self, folder: Path, *, dtype: str = "float32") -> None:
        """Write a Hugging Face folder of the weights. Rank 0 writes. Collective."""
        tensors = {name: t.cpu().contiguous() for name, t in self.full_tensors(getattr(torch, dtype)) if self.rank == 0}
        if self.rank == 0:
            export_folder(folder, tensors, model_dir=Path(self.config.model_dir), dtype=dtype)

    # -- state --------------------------------------------------------------------------------------------------

    def set_rng(self, seed: int) -> None:
        """Seed every random generator of this process. Ranks get different streams."""
        seed += self.rank
        random.seed(seed)
        np.random.seed(seed % (1 << 32))
        torch.manual_seed(seed)

    def anchor(self) -> None:
        """Copy the policy into the reference: after the warm start, it is the initial policy. Collective."""
        if self.reference is not None:
            set_model_state_dict(self.reference, get_model_state_dict(self.policy))

    def _state(self) -> dict[str, Any]:
        """Return the state for a checkpoint. The reference is included, because a resume could not rebuild it."""
        weights, optimizer = get_state_dict(self.policy, self.optimizer)
        state: dict[str, Any] = {"model": weights, "optimizer": optimizer}
        return state if self.reference is None else state | {"reference": get_model_state_dict(self.reference)}

    def save(self, folder: Path) -> None:
        """Write weights, optimizer state and this process's random generators under `folder`. Collective."""
        save_state(self._state(), checkpoint_id=folder / STATE, no_dist=self.world == 1)
        torch.save(_generators(), folder / f"rng-{self.rank:05d}.pt")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote. With another number of ranks, random generators keep their own state. Collective."""
        state = self._state()
        load_state(state, checkpoint_id=folder / STATE, no_dist=self.world == 1)
        set_state_dict(
            self.policy, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"]
        )
        if self.reference is not None:
            set_model_state_dict(self.reference, state["reference"])
        generators = sorted(folder.glob("rng-*.pt"))
        if len(generators) == self.world:
            _restore_generators(torch.load(generators[self.rank], weights_only=False))


def _generators() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"python": random.getstate(), "numpy": np.random.get_state(), "torch": torch.get_rng_state(), "cuda": cuda}


def _restore_generators(state: dict[str, Any]) -> None:
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
