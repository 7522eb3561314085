"""Decides whether a name is a local run or a training on a cluster; holds a command's cluster options."""

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
    """The cluster options of a command; all None where none was given."""

    kubeconfig: Path | None = None
    context: str | None = None
    namespace: str | None = None

    @property
    def asked(self) -> bool:
        """Whether a cluster option was given: then a name never means a local run."""
        return any(each is not None for each in (self.kubeconfig, self.context, self.namespace))

    def holds(self, name: Path, *, runs: Path) -> bool:
        """Return whether `name` is a training on a cluster.

        True where a cluster option was given, or where a cluster is configured and there is no such local run.
        """
        if self.asked:
            return True
        is_path = name.is_dir() or name.is_absolute() or len(name.parts) > 1
        return not is_path and not (runs / name).exists() and reachable_config()

    def kube(self) -> Kube:
        """Return a client of the cluster; ClusterError where none is configured."""
        return connected(kubeconfig=self.kubeconfig, context=self.context, namespace=self.namespace)
