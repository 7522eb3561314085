"""The contract of an objective."""

from __future__ import annotations

from toolorchestra.extend.contracts.broken import hold

_CLOSE = 1e-4


def objective(name: str, *, seed: int = 0) -> None:
    """Hold the objective `name` against its contract. Imports torch.

    Its loss is a finite scalar, also for log ratios of hundreds of nats, and its gradient by the log probabilities is
    finite; loss and sums of a batch are those of its parts added up, since a step is cut into micro-batches; a part
    without a token is no mistake.

    Raises:
        ContractBroken: it does not.
        PluginError: it cannot be used at all, or raises.
    """
    import torch

    from toolorchestra.trainer.batch import StepConfig
    from toolorchestra.trainer.objectives.build import objective_of
    from toolorchestra.trainer.objectives.objective import LossInputs, LossOutputs

    made = objective_of(StepConfig(objective=name))
    random = torch.Generator().manual_seed(seed)

    def inputs(tokens: int, *, apart: float) -> LossInputs:
        def normal() -> torch.Tensor:
            return torch.randn(tokens, generator=random)

        sampler = -5 * torch.rand(tokens, generator=random)
        return LossInputs(
            logprobs=(sampler + apart * normal()).requires_grad_(),
            entropy=normal().square().requires_grad_(),
            sampler_logprobs=sampler,
            advantages=normal(),
            weights=torch.full((tokens,), 1 / 64),
        )

    def part(whole: LossInputs, at: slice) -> LossInputs:
        return LossInputs(
            logprobs=whole.logprobs[at],
            entropy=whole.entropy[at],
            sampler_logprobs=whole.sampler_logprobs[at],
            advantages=whole.advantages[at],
            weights=whole.weights[at],
        )

    def computed(given: LossInputs) -> LossOutputs:
        outputs = made(given)
        hold(bool(torch.isfinite(outputs.loss)), f"the loss is {outputs.loss.item()}")
        hold(not any(value.requires_grad for value in outputs.sums.values()), "sums are not detached")
        return outputs

    for apart in (0.01, 1.0, 300.0):
        whole = inputs(64, apart=apart)
        outputs = computed(whole)
        (gradient,) = torch.autograd.grad(outputs.loss, whole.logprobs, allow_unused=True, retain_graph=True)
        hold(gradient is not None, "the loss does not depend on the policy's log probabilities")
        hold(bool(torch.isfinite(gradient).all()), f"a gradient is not finite at log ratios of about {apart} nats")
        parts = [computed(part(whole, slice(0, 20))), computed(part(whole, slice(20, 64)))]
        parts.append(computed(part(whole, slice(64, 64))))
        _same("loss", outputs.loss.item(), sum(each.loss.item() for each in parts))
        for key, value in outputs.sums.items():
            hold(all(key in each.sums for each in parts), f"{key} is not in the sums of every part")
            _same(key, value.item(), sum(each.sums[key].item() for each in parts))


def _same(what: str, whole: float, parts: float) -> None:
    scale = max(1.0, abs(whole))
    hold(abs(whole - parts) <= _CLOSE * scale, f"{what}: {whole} of a batch, {parts} of its parts together")
