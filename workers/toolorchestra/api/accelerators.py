"""Which of the resources that a container asks for computes: the names that are known, and one that the spec says.

Invariants
- `accelerator` wants `mistakes` to be empty: then what it answers is certain.
- An extended resource (a name with a slash) beside which no accelerator is known is a mistake. It is never taken for
  something on which the CPU's image is to run.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from toolorchestra.api.base import ComputeResources, Resources

EXACT: Final = (
    "nvidia.com/gpu",
    "nvidia.com/gpu.shared",
    "amd.com/gpu",
    "habana.ai/gaudi",
    "gpu.intel.com/i915",
    "gpu.intel.com/xe",
)
"""Resources that are known for accelerators, with those that begin with `MIG`."""
MIG: Final = "nvidia.com/mig-"
CLAIM: Final = "Claim"
NONE: Final = "None"

_OTHERS: Final = ("habana.ai/", "gpu.intel.com/")
"""Not CUDA, nor ROCm that looks like it: our trainers and engines cannot compute there, vLLM's own images can."""
_CLAIMED: Final = "a claimed device"
_REMEDY: Final = (
    f"name the one that computes in resources.accelerator, or say there that it is {CLAIM} (a device of "
    f"podTemplate's resourceClaims) or {NONE} (it runs on the CPU)"
)


@dataclass(frozen=True)
class Accelerator:
    """What one container computes on: the resource's name, and how many of it (a claim: None, it does not tell)."""

    resource: str
    count: int | None

    @property
    def claimed(self) -> bool:
        """Whether it comes with a claim, and is none of `limits`."""
        return self.resource == _CLAIMED

    @property
    def torch(self) -> Literal["cuda", "other"]:
        """PyTorch's device; AMD's is called `cuda` too, and what the spec names is taken for one."""
        return "other" if self.resource.startswith(_OTHERS) else "cuda"


def is_known(resource: str) -> bool:
    """Whether a resource is an accelerator by its name alone."""
    return resource in EXACT or resource.startswith(MIG)


def accelerator(wanted: Resources) -> Accelerator | None:
    """What it computes on; None: the CPU."""
    stated = wanted.accelerator if isinstance(wanted, ComputeResources) else None
    if stated == NONE:
        return None
    if stated == CLAIM:
        return Accelerator(_CLAIMED, None)
    if (name := stated or next(filter(is_known, wanted.limits), None)) is None:
        return None
    count = str(wanted.limits.get(name, 0))
    # Whole by the schema's rule; a resource from before the rule is refused where it is admitted.
    return Accelerator(name, int(count)) if count.isdigit() and int(count) else None


def mistakes(wanted: ComputeResources, *, claims: bool = False) -> Iterator[str]:
    """What is not certain, or contradicts itself, with what to do. `claims`: whether podTemplate claims devices."""
    asked = {**wanted.limits, **wanted.requests}
    extended = [name for name in asked if "/" in name]
    known, stated = [name for name in wanted.limits if is_known(name)], wanted.accelerator
    for name in extended:
        if not str(asked[name]).isdigit():
            yield f"{name}: a whole number is wanted, as of every resource whose name has a slash"
    for name in extended:
        if name not in wanted.limits:
            yield f"{name}: it is in requests only; ask for it in limits"
    if stated in (CLAIM, NONE):
        if known:
            yield f"{known[0]} is an accelerator, and resources.accelerator says {stated}: take one of them out"
        if stated == CLAIM and not claims:
            yield f"resources.accelerator says {CLAIM}, and podTemplate claims no device: add spec.resourceClaims to it"
    elif stated is not None:
        if stated not in wanted.limits:
            yield f"resources.accelerator names {stated}: ask for it in limits too"
    elif len(known) > 1:
        yield f"{' and '.join(known)}: name the one that computes in resources.accelerator"
    elif not known and extended:
        yield f"{', '.join(extended)}: not known whether it computes; {_REMEDY}"
    elif not known and claims:
        yield f"podTemplate claims devices (resourceClaims): not known whether they compute; {_REMEDY}"
