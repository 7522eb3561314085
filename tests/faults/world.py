"""What a run is made of: tasks, a training and its experts as YAML, in a folder of its own."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml

from faults.plan import ALLOWANCE, GROUPS, SIBLINGS, Plan
from toolorchestra.contract.driver_config import DriverConfig
from toolorchestra.policy.fake import byte_renderer
from toolorchestra.policy.renderer import Renderer
from toolorchestra.runs.run_dir import RunDir, write_atomically

POOLS = {"small": ("20", "80"), "middle": ("50", "200"), "large": ("100", "400")}
"""Dollars per million tokens, in and out."""
MAX_INPUT_TOKENS, MAX_OUTPUT_TOKENS = 2000, 64
EPISODE_SECONDS = 12
DEMO = Path(__file__).resolve().parents[2] / "examples/demo"
API = "toolorchestra.dev/v1alpha1"
TASKS = 400
ENGINES, WORKERS = 2, 3


def task_lines(seed: int) -> list[dict[str, Any]]:
    """Sums. A few make the policy fall silent (their groups are filtered), fewer break every engine (their groups never
    have a score)."""
    rng = random.Random(f"{seed}/tasks")
    lines = []
    for number in range(TASKS):
        a, b, draw = rng.randint(1, 999), rng.randint(1, 999), rng.random()
        word = "silent " if draw < 0.03 else "cursed " if draw < 0.035 else "long " if draw < 0.06 else ""
        lines.append(
            {
                "id": f"sum-{number}",
                "kind": "Chat" if number % 2 else "QA",
                "instruction": f"Task {number}: {word}add {a} and {b}.",
                "grader": {"type": "ExactMatch", "data": {"answer": str(a + b)}},
                "topic": "sums",
            }
        )
    return lines


def training(plan: Plan, *, tasks: Path, model: Path, cap: object) -> dict[str, Any]:
    """The training's YAML."""
    c = plan.combination
    filters = {"requireFormat": False, "requireAnswer": False, "whenShort": c.when_short}
    filters["informative"] = not plan.real  # a model that is not trained for this rarely says two different things
    return {
        "apiVersion": API,
        "kind": "OrchestratorTraining",
        "metadata": {"name": c.name},
        "spec": {
            "model": {
                "uri": f"file://{model}",
                "price": {"inputUSDPerMillionTokens": "0.01", "outputUSDPerMillionTokens": "0.01"},
            },
            "tasks": {
                "sources": [{"name": "sums", "type": "JSONL", "jsonl": {"uri": f"file://{tasks}"}}],
                "heldOutFraction": "0.2",
            },
            "tools": {"experts": {"type": "Names", "names": list(POOLS)}, "randomize": _aliases(plan)},
            "reward": {"combiner": "GDPO", "weights": {"outcome": "1", "cost": "0.3", "latency": "0"}},
            "algorithm": {
                "steps": plan.steps,
                "groupSize": SIBLINGS,
                "groupsPerStep": GROUPS,
                "maxStaleness": c.staleness,
                "onStale": c.on_stale,
                "filters": filters,
                "seed": plan.seed,
            },
            "rollout": {
                "workers": WORKERS,
                "concurrencyPerWorker": 24,
                "maxTurns": 3,
                "maxPromptTokens": 900 if plan.real else 6000,
                "maxResponseTokens": 32 if plan.real else 400,
                "episodeTimeoutSeconds": round(EPISODE_SECONDS * plan.slower),
                "episodeBudget": {"maxUSD": str(ALLOWANCE)},
            },
            "checkpoint": {"everySteps": max(2, plan.steps // 40), "keep": 2},
            "evaluation": {"everySteps": max(3, plan.steps // 4), "suites": [{"name": "held-out", "size": 12}]},
            "limits": {"maxSpendUSD": str(cap)},
            "ray": {"engines": {"replicas": ENGINES}},
        },
    }


def _aliases(plan: Plan) -> dict[str, Any]:
    """Words that a real model has seen."""
    if not plan.real:
        return {"aliases": True}
    demo = next(iter(yaml.safe_load_all((DEMO / "training.yaml").read_text())))
    return {"aliases": True, "aliasNames": demo["spec"]["tools"]["randomize"]["aliasNames"]}


def pools(url: str) -> list[dict[str, Any]]:
    """Experts that cost real money: nothing here is simulated, so that every dollar must be found again."""
    return [
        {
            "apiVersion": API,
            "kind": "ExpertPool",
            "metadata": {"name": name},
            "spec": {
                "roles": ["Answer"],
                "description": f"A {name} model.",
                "price": {"inputUSDPerMillionTokens": into, "outputUSDPerMillionTokens": out},
                "expectedLatencyMilliseconds": 100,
                "limits": {"maxInputTokens": MAX_INPUT_TOKENS, "maxOutputTokens": MAX_OUTPUT_TOKENS},
                "type": "Endpoint",
                "endpoint": {"url": f"{url}/{name}/v1", "model": name},
            },
        }
        for name, (into, out) in POOLS.items()
    ]


def make_world(folder: Path, plan: Plan, *, experts_url: str, nats_url: str, model: Path) -> DriverConfig:
    """Write the run's files; what a controller is told."""
    folder.mkdir(parents=True, exist_ok=True)
    tasks = folder / "tasks.jsonl"
    lines = task_lines(plan.seed)
    tasks.write_text("".join(json.dumps(line | ({"kind": "QA"} if plan.real else {})) + "\n" for line in lines))
    config = DriverConfig(
        uid=f"f{plan.seed}",
        run=folder / "run",
        nats_url=nats_url,
        ray_address="",
        resources=(folder / "resources.yaml",),
        model_dir=model,
    )
    documents = [training(plan, tasks=tasks, model=model, cap=plan.caps[0]), *pools(experts_url)]
    write_atomically(config.resources[0], yaml.safe_dump_all(documents))
    RunDir(config.run).root.mkdir(parents=True, exist_ok=True)
    config.write(folder / "driver.json")
    return config


def raise_cap(config: DriverConfig, cap: object) -> None:
    """What a person does when the run says that its cap is reached."""
    path = config.resources[0]
    first, *rest = yaml.safe_load_all(path.read_text())
    first["spec"]["limits"]["maxSpendUSD"] = str(cap)
    write_atomically(path, yaml.safe_dump_all([first, *rest]))


def renderer_of(model: Path) -> Renderer:
    """The model's, or one token a byte where there is no model."""
    return Renderer.load(model) if (model / "tokenizer.json").exists() else byte_renderer()
