"""The cluster that tests run against: a control plane of their own, or one that the user gave."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from testbed.api import Api
from testbed.audit import AuditLog
from testbed.binaries import CannotBuild
from testbed.control_plane import ControlPlane

CHECKOUT = Path(__file__).parents[2]
EXISTING = "TOOLORCHESTRA_TEST_KUBECONFIG"
"""Never KUBECONFIG itself: it may point at a cluster that is in use."""


@dataclass(frozen=True)
class Cluster:
    """`control_plane` is None where the user gave a cluster."""

    kubeconfig: Path
    api: Api
    control_plane: ControlPlane | None

    @property
    def own(self) -> ControlPlane:
        """The control plane, for tests that restart it; where there is none the test says that it did not run."""
        if self.control_plane is None:
            pytest.skip(f"did not run: it needs a control plane of its own; unset {EXISTING}")
        return self.control_plane

    @property
    def audit_log(self) -> AuditLog:
        """What was written; like `own`."""
        return self.own.audit_log


@contextmanager
def running(folder: Path, *, controllers: bool = False, scheduler: bool = False) -> Iterator[Cluster]:
    """A cluster with the project's CRDs served; its files lie in `folder`."""
    crds = sorted((CHECKOUT / "crds").glob("*.yaml"))
    existing = os.environ.get(EXISTING)
    if existing:
        cluster = Cluster(kubeconfig=Path(existing), api=Api(Path(existing)), control_plane=None)
        cluster.api.apply_crds(crds)
        yield cluster
        return
    try:
        plane = ControlPlane(folder, controllers=controllers, scheduler=scheduler)
    except CannotBuild as error:
        pytest.fail(str(error), pytrace=False)
    with plane:
        cluster = Cluster(kubeconfig=plane.kubeconfig, api=Api(plane.kubeconfig), control_plane=plane)
        cluster.api.apply_crds(crds)
        yield cluster
