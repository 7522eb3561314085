"""Lets vLLM find our plug-in when this code runs from a checkout.

vLLM reads the entry points of installed packages, and a checkout on PYTHONPATH has none. So the engine gets a folder
with the two text files of an installed package.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

GROUP: Final = "vllm.general_plugins"
NAME: Final = "toolorchestra_snapshot"
TARGET: Final = "toolorchestra.engines.vllm_plugin:register"
"""The same names as in pyproject.toml."""


def plugin_environment(base: Mapping[str, str], *, folder: Path) -> dict[str, str]:
    """Return `PYTHONPATH` with which an engine finds the plug-in; empty if it is installed. Writes into `folder`."""
    if entry_points(group=GROUP, name=NAME):
        return {}
    package = folder / "toolorchestra_checkout-0.dist-info"
    package.mkdir(parents=True, exist_ok=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: toolorchestra-checkout\nVersion: 0\n")
    (package / "entry_points.txt").write_text(f"[{GROUP}]\n{NAME} = {TARGET}\n")
    known = base.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join((str(folder.resolve()), *([known] if known else ())))}
