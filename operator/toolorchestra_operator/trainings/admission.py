"""Whether a training can run with its spec on this cluster; if not, it is refused at once, with the remedy. Pure.

A refusal is about objects that would be created. Existing objects are supervised independently (`supervision`).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from toolorchestra.api.accelerators import accelerator, mistakes
from toolorchestra.api.conditions import Reason
from toolorchestra.api.pool import ExpertPool
from toolorchestra.api.training import OrchestratorTraining
from toolorchestra_operator.kubernetes.manifest import Ref
from toolorchestra_operator.planning.overlay import claims_devices, shape_mistakes
from toolorchestra_operator.planning.refusal import broke
from toolorchestra_operator.trainings import workers
from toolorchestra_operator.trainings.desired import Desired
from toolorchestra_operator.trainings.experts import Unmatched, chosen, remembered_names
from toolorchestra_operator.trainings.node_groups import device_problems, shares
from toolorchestra_operator.trainings.observed import Observed
from toolorchestra_operator.trainings.ownership import leaves, taken
from toolorchestra_operator.trainings.pods import OverlayRejected
from toolorchestra_operator.trainings.provider import PROVIDERS, RayProvider
from toolorchestra_operator.trainings.remembered import Provider, Remembered
from toolorchestra_operator.trainings.storage import cache_claim, storage_claim

_log = logging.getLogger(__name__)
LEFT_SECONDS: Final = 5.0
"""How often to check what is being removed."""


@dataclass(frozen=True)
class NotAdmitted:
    """The reason and message of `Accepted=False`."""

    reason: Reason
    message: str
    again: float | None = None
    """Seconds until another reconcile, if the cause ends by itself and no event reports it."""


@dataclass(frozen=True)
class Admitted:
    """What the objects of an admitted training are made from."""

    desired: Desired
    experts: tuple[ExpertPool, ...]
    provider: Provider


def admit(observed: Observed, remembered: Remembered) -> Admitted | NotAdmitted:
    """Return everything that can be refused before anything is created. An admitted training keeps its experts and its
    provider."""
    try:
        return _admit(observed, remembered)
    except Exception as error:  # an unexpected spec: refused like any other, and what runs is supervised
        _log.exception("%s: admission failed", observed.parent["metadata"]["name"])
        return NotAdmitted(Reason.OPERATOR_FAILED, broke(error))


def _admit(observed: Observed, remembered: Remembered) -> Admitted | NotAdmitted:
    try:
        training = OrchestratorTraining.model_validate({k: v for k, v in observed.parent.items() if k != "status"})
    except ValidationError as error:
        return NotAdmitted(Reason.INVALID_SPEC, _said(error))
    desired = Desired(observed.parent, training, observed.runtime)
    if remembered.terminal is not None:  # it needs nothing any more: it has ended
        return Admitted(desired, (), remembered.provider or "Builtin")
    if unseen := [one for one in observed.missing if one.reason is Reason.FORBIDDEN]:
        return NotAdmitted(Reason.FORBIDDEN, "; ".join(one.message for one in unseen))
    experts = _experts(training, observed, remembered)
    if isinstance(experts, Unmatched):
        return NotAdmitted(experts.reason, experts.message)
    provider = _provider(training, observed, remembered)
    if isinstance(provider, NotAdmitted):
        return provider
    if unsupported := _unsupported(desired):
        return NotAdmitted(Reason.INVALID_SPEC, "; ".join(unsupported))
    if misshapen := _misshapen(desired, observed):
        return NotAdmitted(Reason.INVALID_POD_TEMPLATE, "; ".join(misshapen))
    try:
        _pods(desired, PROVIDERS[provider])
    except OverlayRejected as error:
        return NotAdmitted(Reason.INVALID_POD_TEMPLATE, str(error))
    if observed.missing:
        return NotAdmitted(observed.missing[0].reason, "; ".join(one.message for one in observed.missing))
    if refusal := _taken(desired, provider, observed, max(1, remembered.attempt)):
        return refusal
    return Admitted(desired, experts, provider)


def _experts(
    training: OrchestratorTraining, observed: Observed, remembered: Remembered
) -> tuple[ExpertPool, ...] | Unmatched:
    if not remembered.experts:
        return chosen(training, observed.pools)
    there = {pool.metadata.name: pool for pool in observed.pools}
    names = remembered_names(remembered.experts)
    if gone := [name for name in names if name not in there]:
        return Unmatched(Reason.POOL_NOT_FOUND, f"ExpertPool {', '.join(gone)} was deleted: make it again")
    return tuple(there[name] for name in names)


def _provider(training: OrchestratorTraining, observed: Observed, remembered: Remembered) -> Provider | NotAdmitted:
    """Return the provider, which does not change once it is chosen. Auto: KubeRay if it is installed."""
    wanted, queue = remembered.provider or training.spec.ray.provider, training.spec.queue_name
    if wanted == "Auto":
        wanted = "KubeRay" if observed.kuberay else "Builtin"
    if wanted == "KubeRay":
        if observed.kuberay:
            return "KubeRay"
        said = "KubeRay is not installed: RayJobs (ray.io/v1) are not served. Install it"
        remedy = said if remembered.provider else f"{said}, or use Auto or Builtin (in a new training)"
        return NotAdmitted(Reason.RAY_PROVIDER_UNAVAILABLE, f"spec.ray.provider: {remedy}")
    if queue is None or remembered.provider is not None:
        return "Builtin"
    said = f"spec.queueName: the Builtin provider does not wait for the quota of queue {queue}"
    if training.spec.ray.provider == "Builtin":
        remedy = "use the provider KubeRay, or leave queueName out (either in a new training)"
        return NotAdmitted(Reason.INVALID_SPEC, f"{said}: {remedy}")
    remedy = "install KubeRay, or leave queueName out (in a new training)"
    return NotAdmitted(Reason.RAY_PROVIDER_UNAVAILABLE, f"{said}, and KubeRay is not installed: {remedy}")


def _unsupported(desired: Desired) -> list[str]:
    """Return what the schema allows and this release does not support; reported before a GPU is requested."""
    spec, found = desired.spec, []
    if spec.storage.type == "URI":
        found.append("spec.storage.type: URI is not available; use EphemeralClaim or ExistingClaim")
    if spec.model.uri.startswith("s3://"):
        found.append("spec.model.uri: s3:// is not available; use hf://, pvc:// or file://")
    if spec.init_from is not None:
        found.append("spec.initFrom: not available; set spec.model.uri to the exported folder (pvc://claim/path)")
    if spec.export is not None:
        found.append("spec.export: not available; the model is exported into storage, see status.exportURI")
    if desired.nats_url is None:  # the operator creates the streams, even if the pods have URLs of their own
        found.append("spec.messaging.url: no NATS server is known; name one, or install the chart with nats.enabled")
    return [*found, *_accelerators(desired)]


def _accelerators(desired: Desired) -> Iterator[str]:
    """Yield errors in the requested accelerators of trainers and engines."""
    ray = desired.spec.ray
    claims = claims_devices(ray.pod_template)
    nodes = {"trainers": ray.trainers.resources}
    if not shares(ray):
        nodes["engines"] = ray.engines.resources
    for name, wanted in nodes.items():
        where = f"spec.ray.{name}.resources"
        wrong = [f"{where}: {one}" for one in mistakes(wanted, claims=claims)]
        found = accelerator(wanted)
        if not wrong and found is not None and found.torch != "cuda":
            wrong = [f"{where}: {found.resource}: trainers and engines compute with CUDA or ROCm: ask for such a GPU"]
        yield from wrong
    yield from device_problems(ray)


def _misshapen(desired: Desired, observed: Observed) -> list[str]:
    """Return the errors of the overlays against the API server's schema."""
    overlays = (desired.overlay(component) for component in ("head", "workers"))
    return [one for path, overlay in overlays for one in shape_mistakes(overlay, observed.schemas, path=path)]


def _taken(desired: Desired, provider: Provider, observed: Observed, attempt: int) -> NotAdmitted | None:
    """Return a refusal if foreign objects have names that an attempt needs."""
    claims = (storage_claim(desired), cache_claim(desired))
    wanted = [Ref.of(one) for one in claims if one is not None]
    names = desired.names
    wanted += [workers.ref(names), names.token_ref, names.config_ref(attempt), names.nats_ref(attempt)]
    wanted += PROVIDERS[provider].refs(desired.names, attempt)
    found = [(ref, observed.foreign[ref]) for ref in wanted if ref in observed.foreign]
    if not found:
        return None
    said = "; ".join(taken(ref, live, desired.names) for ref, live in found)
    soon = any(leaves(live, desired.names) for _, live in found)
    return NotAdmitted(Reason.NAME_TAKEN, said, again=LEFT_SECONDS if soon else None)


def _pods(desired: Desired, provider: RayProvider) -> None:
    """Build every pod template once; raises for what an overlay may not set."""
    provider.manifests(desired, attempt=1)
    workers.deployment(desired, (), attempt=1, replicas=0)


def _said(error: ValidationError) -> str:
    def path(location: tuple[Any, ...]) -> str:
        return ".".join(str(part) for part in location)

    return "; ".join(f"{path(e['loc'])}: {e['msg']}" for e in error.errors())
