"""KubeRay's own CRDs. They are not part of this repository: they are read from TEST_DATA."""

from __future__ import annotations

import os
from pathlib import Path

from testbed.cluster import CHECKOUT

FILES = ("ray.io_rayclusters.yaml", "ray.io_rayjobs.yaml")
ABSENT = (
    "did not run: KubeRay's CRDs {missing} are not in {folder}. Copy them there from ray-operator/config/crd/bases of "
    "github.com/ray-project/kuberay, or set TEST_DATA to a folder that has kuberay/"
)


def crd_files() -> tuple[list[Path], str]:
    """The files, and why tests that need them cannot run ("" where they can)."""
    data = Path(os.environ.get("TEST_DATA") or CHECKOUT.parent / "shared" / "data")
    paths = [data / "kuberay" / name for name in FILES]
    missing = [path.name for path in paths if not path.is_file()]
    return paths, ABSENT.format(missing=" and ".join(missing), folder=data / "kuberay") if missing else ""
