"""Names and labels of a pool's objects. Deterministic: an operator without any memory finds them again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from toolorchestra_operator.kubernetes.kinds import POOLS
from toolorchestra_operator.kubernetes.manifest import Ref
from toolorchestra_operator.kubernetes.owner import Owner, our_labels

POOL_LABEL: Final = "toolorchestra.dev/pool"
COMPONENT: Final = "vllm"
"""The component's label, and the name of the main container."""
PORT: Final = 8000
API_KEY: Final = "api-key"
"""Suffix of the Secret's name, and the key in it."""


@dataclass(frozen=True)
class PoolNames(Owner):
    """The names of one pool's objects. A pool's name has at most 40 characters, so that every name is a DNS label."""

    about = POOLS

    @property
    def server(self) -> str:
        """The name of the Deployment, the Service, the disruption budget and the network policy."""
        return f"{self.name}-vllm"

    @property
    def cache(self) -> str:
        return f"{self.name}-cache"

    @property
    def api_key(self) -> str:
        return f"{self.name}-{API_KEY}"

    @property
    def url(self) -> str:
        """The pool's URL inside the cluster."""
        return f"http://{self.server}.{self.namespace}.svc:{PORT}/v1"

    @property
    def selector(self) -> dict[str, str]:
        """Labels of exactly the pool's pods; a Deployment's selector can never change."""
        return {POOL_LABEL: self.name, "app.kubernetes.io/component": COMPONENT}

    @property
    def labels(self) -> dict[str, str]:
        """The labels of every object and pod."""
        return our_labels(COMPONENT) | self.selector

    def metadata(self, name: str, *, labels: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Return the metadata of an owned object; `labels` are additional ones."""
        return self.owned(name, {**self.labels, **(labels or {})})

    @property
    def deployment_ref(self) -> Ref:
        return Ref("apps/v1", "Deployment", self.namespace, self.server)

    @property
    def cache_ref(self) -> Ref:
        return Ref("v1", "PersistentVolumeClaim", self.namespace, self.cache)

    @property
    def key_ref(self) -> Ref:
        return Ref("v1", "Secret", self.namespace, self.api_key)

    @property
    def refs(self) -> tuple[Ref, ...]:
        """References to everything that is ever created for a pool."""
        return (
            self.key_ref,
            self.cache_ref,
            Ref("v1", "Service", self.namespace, self.server),
            Ref("policy/v1", "PodDisruptionBudget", self.namespace, self.server),
            Ref("networking.k8s.io/v1", "NetworkPolicy", self.namespace, self.server),
            self.deployment_ref,
        )
