"""Templates and images of two releases meet by these words, so that they never change."""

from __future__ import annotations

import subprocess
import sys

import pytest

from toolorchestra.contract import commands

STABLE = {
    "HEAD_COMMAND": "python -m toolorchestra.cluster.head",
    "NODE_COMMAND": "python -m toolorchestra.cluster.node",
    "DRIVER_COMMAND": "python -m toolorchestra.cluster.entrypoint",
    "PRE_STOP_COMMAND": "python -m toolorchestra.cluster.before_end",
    "FETCH_COMMAND": "python -m toolorchestra.cluster.fetch",
}


def test_they_stay_what_the_releases_before_wrote() -> None:
    found = {name: " ".join(getattr(commands, name)) for name in dir(commands) if name.endswith("_COMMAND")}
    assert found == STABLE


@pytest.mark.parametrize("name", STABLE)
def test_each_is_there(name: str) -> None:
    _, *words = STABLE[name].split()
    done = subprocess.run([sys.executable, *words, "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "usage: " in done.stdout
