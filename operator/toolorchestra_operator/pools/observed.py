"""The observed facts for one reconcile of a pool, frozen. The observer fills them in; tests write them directly."""

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
    """What the spec refers to and does not exist."""
    answer: Answer | None = None
    """The answer of the last probe; None: not probed, or not answered yet."""
    asking: bool = False
    """Whether a probe is running, or will be due again."""
    measured: MeasuredService | None = None
    """The measured service times of calls; None: there are none."""
    token: str = ""
    """A new random key, for the pool's Secret if there is none."""
