"""All kinds: two custom resources, and three kinds that are local files only."""

from __future__ import annotations

from toolorchestra.api.evaluation import Evaluation
from toolorchestra.api.pool import ExpertPool
from toolorchestra.api.resource import Resource
from toolorchestra.api.skill_table import SkillTable
from toolorchestra.api.synthesis import Synthesis
from toolorchestra.api.training import OrchestratorTraining

CUSTOM_RESOURCES: tuple[type[Resource], ...] = (ExpertPool, OrchestratorTraining)
LOCAL_KINDS: tuple[type[Resource], ...] = (SkillTable, Synthesis, Evaluation)
KINDS: dict[str, type[Resource]] = {kind.__name__: kind for kind in (*CUSTOM_RESOURCES, *LOCAL_KINDS)}
