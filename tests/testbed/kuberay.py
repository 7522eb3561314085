"""KubeRay's own CRDs. They are not part of this repository: its published Go module has them, and TEST_DATA may."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from testbed.binaries import CannotBuild, module_folder
from testbed.cluster import CHECKOUT

MODULE = "github.com/ray-project/kuberay/ray-operator"
FILES = ("ray.io_rayclusters.yaml", "ray.io_rayjobs.yaml")
SERVICES = "ray.io_rayservices.yaml"
"""KubeRay's operator does not start without it."""
ABSENT = (
    "did not run: KubeRay's CRDs are not in {folder}, and cannot be had from Go: {error}. Copy them from "
    "ray-operator/config/crd/bases of github.com/ray-project/kuberay, or set TEST_DATA to a folder that has kuberay/"
)


def _given() -> Path:
    data = Path(os.environ.get("TEST_DATA") or CHECKOUT.parent / "shared" / "data")
    return data / "kuberay"


def crd_folder(*, needed: Sequence[str] = (*FILES, SERVICES)) -> Path:
    """`ray.io_*.yaml`: TEST_DATA's where it has those that are needed, else those of the module that the operator is
    built from.

    Raises:
        CannotBuild: neither is there; no Go toolchain, or no module.
    """
    given = _given()
    if all((given / name).is_file() for name in needed):
        return given
    return module_folder("kuberay-operator", MODULE) / "config" / "crd" / "bases"


def crd_files() -> tuple[list[Path], str]:
    """Those that trainings need, and why tests that need them cannot run ("" where they can)."""
    try:
        folder = crd_folder(needed=FILES)
    except CannotBuild as error:
        return [], ABSENT.format(folder=_given(), error=error)
    return [folder / name for name in FILES], ""
