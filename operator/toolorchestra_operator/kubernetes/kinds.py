"""The kinds that decisions name, as objects do: `apiVersion` and `kind`."""

from __future__ import annotations

from typing import Final

from toolorchestra.kube import kinds

TRAININGS: Final = kinds.TRAININGS.key
POOLS: Final = kinds.POOLS.key
RAY_JOB: Final = kinds.RAY_JOBS.key
