"""The kinds that decisions use, as objects name them: `apiVersion` and `kind`."""

from __future__ import annotations

from typing import Final

from toolorchestra.kube import kinds

TRAININGS: Final = kinds.TRAININGS.key
POOLS: Final = kinds.POOLS.key
RAY_JOB: Final = kinds.RAY_JOBS.key
