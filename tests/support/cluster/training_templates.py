"""The pod templates of a training that runs, under either provider."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from support.cluster import kuberay_world, training_world


def templates(provider: str, **runtime: Any) -> dict[str, dict[str, Any]]:
    """Pod templates of a training that runs, by component."""
    world: Any = training_world.World() if provider == "builtin" else kuberay_world.World()
    world.runtime = replace(training_world.RUNTIME, **runtime)
    world.settle()
    found: dict[str, dict[str, Any]] = {}
    for manifest in world.live().values():
        spec = manifest.get("spec", {})
        some = [spec["template"]] if "template" in spec else []
        if cluster := spec.get("rayClusterSpec"):
            groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
            some = [group["template"] for group in groups]
        for template in some:
            found[template["metadata"]["labels"]["app.kubernetes.io/component"]] = template
    assert {"head", "trainers", "engines", "workers"} <= found.keys()
    return found
