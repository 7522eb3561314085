"""Find the accelerator among the resources of a container: by known names, or as the spec states it.

Invariants
- Call `accelerator` only where `mistakes` yields nothing: then its answer is certain.
- An extended resource (a name with a slash) without a known accelerator is a mistake. Such a container never gets the
  CPU image.
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
"""Resource names that are known to be accelerators, besides those that begin with `MIG`."""
MIG: Final = "nvidia.com/mig-"
CLAIM: Final = "Claim"
NONE: Final = "None"

_OTHERS: Final = ("habana.ai/", "gpu.intel.com/")
"""Prefixes of accelerators that are neither CUDA nor ROCm. Our trainers and engines cannot compute on them; vLLM's own
images can."""
_CLAIMED: Final = "a claimed device"
_REMEDY: Final = (
    f"set resources.accelerator to the resource that computes, to {CLAIM} (a device of podTemplate's resourceClaims), "
    f"or to {NONE} (the container runs on the CPU)"
)


@dataclass(frozen=True)
class Accelerator:
    """The accelerator of one container: the resource's name, and how many (None for a claim, where it is not known)."""

    resource: str
    count: int | None

    @property
    def claimed(self) -> bool:
        """Whether a resource claim provides it; then it is not in `limits`."""
        return self.resource == _CLAIMED

    @property
    def torch(self) -> Literal["cuda", "other"]:
        """PyTorch's device type. AMD's is `cuda` too, and so is a resource that the spec names."""
        return "other" if self.resource.startswith(_OTHERS) else "cuda"


def is_known(resource: str) -> bool:
    """Whether a resource is an accelerator by its name alone."""
    return resource in EXACT or resource.startswith(MIG)


def accelerator(wanted: Resources) -> Accelerator | None:
    """Return the accelerator of a container; None: it computes on the CPU."""
    stated = wanted.accelerator if isinstance(wanted, ComputeResources) else None
    if stated == NONE:
        return None
    if stated == CLAIM:
        return Accelerator(_CLAIMED, None)
    if (name := stated or next(filter(is_known, wanted.limits), None)) is None:
        return None
    count = str(wanted.limits.get(name, 0))
    # The schema requires a whole number. Admission refuses a resource that is older than that rule.
    return Accelerator(name, int(count)) if count.isdigit() and int(count) else None


def mistakes(wanted: ComputeResources, *, claims: bool = False) -> Iterator[str]:
    """Yield what is unclear or contradictory, and what to do. `claims`: whether podTemplate claims devices."""
    asked = {**wanted.limits, **wanted.requests}
    extended = [name for name in asked if "/" in name]
    known, stated = [name for name in wanted.limits if is_known(name)], wanted.accelerator
    for name in extended:
        if not str(asked[name]).isdigit():
            yield f"{name}: want a whole number, as for every resource whose name has a slash"
    for name in extended:
        if name not in wanted.limits:
            yield f"{name}: it is in requests only; add it to limits"
    if stated in (CLAIM, NONE):
        if known:
            yield f"{known[0]} is an accelerator, but resources.accelerator is {stated}: remove one of them"
        if stated == CLAIM and not claims:
            yield f"resources.accelerator is {CLAIM}, but podTemplate claims no device: add spec.resourceClaims to it"
    elif stated is not None:
        if stated not in wanted.limits:
            yield f"resources.accelerator names {stated}, which is not in limits: add it to limits"
    elif len(known) > 1:
        yield f"{' and '.join(known)}: set resources.accelerator to the one that computes"
    elif not known and extended:
        yield f"{', '.join(extended)}: not known whether it is an accelerator; {_REMEDY}"
    elif not known and claims:
        yield f"podTemplate claims devices (resourceClaims): not known whether they are accelerators; {_REMEDY}"
