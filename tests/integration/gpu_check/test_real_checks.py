"""The checks that start real processes, once each, on a CPU in tiny sizes: what a GPU machine runs must not rot."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpu.result import ResultsFile
from testbed.cluster import CHECKOUT

pytestmark = [pytest.mark.real, pytest.mark.long, pytest.mark.timeout(1800)]


def test_engine_checks_and_the_demo_pass_on_a_cpu(tmp_path: Path) -> None:
    names = ("transfer-1.7B", "real-weights", "graphs-1.7B", "demo")
    results = tmp_path / "gpu-results.json"
    options = ["--device", "cpu", "--tiny", "--again", "--results", str(results), "--only", *names]
    done = subprocess.run(
        [sys.executable, "-m", "gpu.check", *options],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT / "tests")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = ResultsFile(results).read()
    assert {name: result.status for name, result in found.items()} == dict.fromkeys(names, "ok")
    figures = {figure.name: figure for figure in found["transfer-1.7B"].figures}
    assert figures["new weights: greedy tokens that are equal"].value == 1
    assert float(str(figures["old weights: greedy tokens that are equal"].value)) < 1
    assert results.with_suffix(".md").exists()
