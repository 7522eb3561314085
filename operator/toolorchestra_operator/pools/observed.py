"""What one reconcile of a pool sees. Frozen facts; the observer fills them in, a test writes them down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from toolorchestra.api.pool import MeasuredService
from toolorchestra_operator.kubernetes.manifest import Manifest, Ref
from toolorchestra_operator.kubernetes.openapi import Schemas
from toolorchestra_operator.planning.needs import Missing
from toolorchestra_operator.pools.probe import Answer
from toolorchestra_operator.pools.runtime import PoolRuntime


@dataclass(frozen=True, kw_only=True)
class Observed:
    """`objects` are the live children; `pods` are only listed while replicas are missing."""

    parent: Manifest
    runtime: PoolRuntime
    schemas: Schemas
    objects: Mapping[Ref, Manifest] = field(default_factory=dict[Ref, Manifest])
    pods: tuple[Manifest, ...] = ()
    missing: tuple[Missing, ...] = ()
    """What the spec refers to and is not there."""
    answer: Answer | None = None
    """The last probe's; None: not asked, or not answered yet."""
    asking: bool = False
    """A probe is under way, or an answer will be wanted again."""
    measured: MeasuredService | None = None
    """What calls were measured to take; None: nobody measures."""
    token: str = ""
    """A fresh random key, for the pool's Secret where there is none."""
