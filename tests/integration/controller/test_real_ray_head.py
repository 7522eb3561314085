"""A run's Ray is its own, whatever else runs on the machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.real


def test_another_ray_is_not_joined(tmp_path: Path) -> None:
    ready = tmp_path / "ray.json"
    argv = [sys.executable, "-m", "toolorchestra.controller.ray_head", "--ready", str(ready), "--cpus", "1"]
    with (tmp_path / "ray.log").open("wb") as log:
        process = subprocess.Popen(argv, env={**os.environ, "RAY_ADDRESS": "127.0.0.1:1"}, stdout=log, stderr=log)
    deadline = time.monotonic() + 120
    try:
        while not ready.exists():
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(timeout=0.1)
            assert time.monotonic() < deadline, (tmp_path / "ray.log").read_text()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    assert json.loads(ready.read_text())["address"] != "127.0.0.1:1"
