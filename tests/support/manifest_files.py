"""Files with a pool and a training, for tests of the loader, and what it says is wrong in them."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolorchestra.api import ResourceError, load

POOL = """\
apiVersion: toolorchestra.dev/v1alpha1
kind: ExpertPool
metadata: {name: generalist, labels: {team: demo}}
spec:
  description: Good at everything.
  price: {inputUSDPerMillionTokens: "1", outputUSDPerMillionTokens: "10"}
  expectedLatencyMilliseconds: 900
  type: Endpoint
  endpoint: {url: http://simulator/v1, model: generalist}
"""
TRAINING = """\
apiVersion: toolorchestra.dev/v1alpha1
kind: OrchestratorTraining
metadata: {name: demo}
spec:
  model: {uri: hf://Qwen/Qwen3-8B, price: {inputUSDPerMillionTokens: "0.2", outputUSDPerMillionTokens: "0.2"}}
  tasks:
    sources:
    - {name: puzzles, type: ReasoningGym, reasoningGym: {datasets: [chain_sum]}}
  tools:
    experts: {type: Selector, selector: {matchLabels: {team: demo}}}
"""


def write(folder: Path, text: str, name: str = "x.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def mistakes(*paths: Path, resolve: bool = True) -> dict[str, str]:
    """path → message; the whole text where there is no path."""
    with pytest.raises(ResourceError) as caught:
        load(list(paths), resolve=resolve)
    found: dict[str, str] = {}
    for mistake in caught.value.mistakes:
        assert mistake.path not in found, f"two messages for {mistake.path}"
        found[mistake.path] = mistake.message
    return found
