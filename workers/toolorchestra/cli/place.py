"""Whether a name is a run of this machine or a training on a cluster, and the cluster's half of a command's options."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from toolorchestra.cli.cluster import connected
from toolorchestra.cluster_client.connection import reachable_config

if TYPE_CHECKING:
    from toolorchestra.cluster_client.kube import Kube


@dataclass(frozen=True)
class Place:
    """Which cluster was asked for; all None: none by name."""

    kubeconfig: Path | None = None
    context: str | None = None
    namespace: str | None = None

    @property
    def asked(self) -> bool:
        """Whether a cluster's option was given: then no name means a local run."""
        return any(each is not None for each in (self.kubeconfig, self.context, self.namespace))

    def holds(self, name: Path, *, runs: Path) -> bool:
        """Whether `name` is a training on a cluster: one was asked for, or there is one and no such run here."""
        if self.asked:
            return True
        is_path = name.is_dir() or name.is_absolute() or len(name.parts) > 1
        return not is_path and not (runs / name).exists() and reachable_config()

    def kube(self) -> Kube:
        """The cluster; ClusterError where there is none."""
        return connected(kubeconfig=self.kubeconfig, context=self.context, namespace=self.namespace)
