"""Trainings and pools that are looked at before they are applied, and what is said of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import yaml

from support.cluster.pool_world import GPU, vllm_pool
from support.real_run import TINY_RUN
from toolorchestra.api.pool import ExpertPool
from toolorchestra.api.training import OrchestratorTraining
from toolorchestra.cluster_client.preflight.cluster import cluster_lines
from toolorchestra.cluster_client.preflight.compute import demands
from toolorchestra.cluster_client.preflight.facts import Facts
from toolorchestra.cluster_client.preflight.line import Line
from toolorchestra.cluster_client.preflight.references import references

DOCUMENTS: list[dict[str, Any]] = list(yaml.safe_load_all((TINY_RUN / "training.yaml").read_text()))
POOLS = tuple(ExpertPool.model_validate(one) for one in DOCUMENTS[1:])


def training(**spec: Any) -> OrchestratorTraining:
    return OrchestratorTraining.model_validate({**DOCUMENTS[0], "spec": {**DOCUMENTS[0]["spec"], **spec}})


def gpu_training(uri: str = "hf://Qwen/Qwen3-8B", *, trainers: int = 2, **spec: Any) -> OrchestratorTraining:
    ray = {
        "trainers": {"replicas": trainers, "resources": GPU},
        "engines": {"replicas": 4, "tensorParallelSize": 2, "resources": {"limits": {"nvidia.com/gpu": 2}}},
    }
    model = {**DOCUMENTS[0]["spec"]["model"], "uri": uri}
    return training(model=model, ray=ray, **spec)


def pool(**vllm: Any) -> ExpertPool:
    return ExpertPool.model_validate(vllm_pool(**vllm))


def levels(lines: Iterable[Line], about: str = "") -> list[str]:
    return [line.level for line in lines if not about or line.about == about]


def lines(facts: Facts, *trainings: OrchestratorTraining, pools: tuple[ExpertPool, ...] = ()) -> list[Line]:
    chosen = trainings or (training(),)
    found = references([*pools, *chosen])
    there = {**{one: {"data": {"token": ""}} for one in found}, **facts.objects}
    about = {"pools": pools, "trainings": chosen, "references": found, "demands": demands(pools, chosen)}
    return list(cluster_lines(replace(facts, objects=there), namespace="team", **about))  # type: ignore[arg-type]
