"""The custom resources, and the kinds that are local files only, as frozen pydantic models.

`load(paths)` reads YAML into a `Bundle` or raises one `ResourceError` with every mistake. Neither torch nor a
Kubernetes client is imported here. Where to find each part of a training:

| YAML | attribute | module |
| --- | --- | --- |
| `spec.tasks` | `spec.tasks.sources[i].reasoning_gym.datasets` … | `task_sources` |
| `spec.tools` | `spec.tools.randomize.price_books` … | `toolset` |
| `spec.reward`, `spec.preferences` | `spec.reward.weights.outcome` … | `reward` |
| `spec.algorithm`, `spec.warmStart` | `spec.algorithm.groups_per_step` … | `algorithm` |
| `spec.rollout` | `spec.rollout.concurrency_per_worker` … | `rollout` |
| `spec.evaluation.suites` | `spec.evaluation.suites[i].alias_names` … | `suite` |
| `spec.ray`, `messaging`, `storage`, `checkpoint`, `export`, `telemetry`, `limits` | … | `cluster` |
"""

from toolorchestra.api.bundle import Bundle
from toolorchestra.api.evaluation import Evaluation
from toolorchestra.api.kinds import CUSTOM_RESOURCES, KINDS, LOCAL_KINDS
from toolorchestra.api.load import load
from toolorchestra.api.mistakes import Mistake, ResourceError
from toolorchestra.api.pool import ExpertPool
from toolorchestra.api.skill_table import SkillTable
from toolorchestra.api.synthesis import Synthesis
from toolorchestra.api.training import OrchestratorTraining

__all__ = [
    "CUSTOM_RESOURCES",
    "KINDS",
    "LOCAL_KINDS",
    "Bundle",
    "Evaluation",
    "ExpertPool",
    "Mistake",
    "OrchestratorTraining",
    "ResourceError",
    "SkillTable",
    "Synthesis",
    "load",
]
