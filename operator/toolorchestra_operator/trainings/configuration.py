"""The ConfigMap of an attempt, with the input of driver and workers. Created once; an attempt's never changes.

`driver.json` is a `DriverConfig`, with only the fields that are set here: an image of the previous release refuses
fields that it does not know. `resources.yaml` is the training with its experts as endpoints, whatever serves them.
Neither holds a secret; the Secret of `nats_secret` holds a NATS URL with credentials.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolorchestra.api.core_yaml import dump_all
from toolorchestra.api.pool import ExpertPool
from toolorchestra.bus.nats_url import has_credentials, shown
from toolorchestra.contract.driver_config import DriverConfig
from toolorchestra_operator.trainings.desired import CONFIG_PATH, Desired
from toolorchestra_operator.trainings.node_groups import shares
from toolorchestra_operator.trainings.pods import NATS_KEY

DRIVER_FILE = "driver.json"
RESOURCES_FILE = "resources.yaml"


def config_map(desired: Desired, pools: Sequence[ExpertPool], *, attempt: int, ray_address: str) -> dict[str, Any]:
    """Return the ConfigMap. `pools` are resolved: see `experts.resolved`."""
    names = desired.names
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": names.metadata(names.attempt(attempt), "config", attempt=attempt),
        "immutable": True,
        "data": {
            DRIVER_FILE: driver_config(desired, attempt=attempt, ray_address=ray_address).told(),
            RESOURCES_FILE: dump_all([_training(desired), *map(_document, pools)]),
        },
    }


def nats_secret(desired: Desired, *, attempt: int) -> dict[str, Any] | None:
    """Return the attempt's Secret with its NATS URL. None: the URL is not secret, or the spec names Secrets for all."""
    names, messaging, url = desired.names, desired.spec.messaging, desired.nats_url or ""
    named = messaging.controller_secret_ref is not None and messaging.worker_secret_ref is not None
    if named or not has_credentials(url):
        return None
    metadata = names.metadata(names.nats(attempt), "config", attempt=attempt)
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {NATS_KEY: url}}


def driver_config(desired: Desired, *, attempt: int, ray_address: str) -> DriverConfig:
    """Return the driver's configuration. Its NATS URL has no credentials: the pod's environment has the whole URL and
    takes precedence."""
    return DriverConfig(
        uid=desired.names.short_uid,
        run=Path(desired.run_path),
        nats_url=shown(desired.nats_url or ""),
        ray_address=ray_address,
        resources=(Path(f"{CONFIG_PATH}/{RESOURCES_FILE}"),),
        model_dir=Path(desired.model_dir),
        volumes={name: Path(path) for name, path in desired.volumes.items()},
        device="cuda" if desired.on_gpu else "cpu",
        shared=shares(desired.spec.ray),
        cluster=True,
        attempt=attempt,
        threads=_threads(desired),
    )


def _threads(desired: Desired) -> int:
    """Return the whole cores of the trainer's CPU limit."""
    cores = str(desired.spec.ray.trainers.resources.limits.get("cpu", ""))
    if not cores.isdigit():
        return desired.runtime.cpu_threads
    return max(1, int(cores))


def _training(desired: Desired) -> dict[str, Any]:
    document = _document(desired.training)
    messaging: dict[str, Any] = document["spec"].get("messaging") or {}
    if "url" in messaging:
        messaging["url"] = shown(messaging["url"])
    return document


def _document(resource: Any) -> dict[str, Any]:
    """Return a resource as in a file: without status, and with the metadata that people write."""
    document: dict[str, Any] = resource.model_dump(mode="json", by_alias=True, exclude_none=True)
    document.pop("status", None)
    metadata = document["metadata"]
    document["metadata"] = {key: metadata[key] for key in ("name", "namespace", "labels") if metadata.get(key)}
    return document
