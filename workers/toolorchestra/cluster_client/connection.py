"""Chooses the cluster, the user and the namespace, as kubectl does."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolorchestra import __version__
from toolorchestra.cluster_client.errors import NoClient, NoCluster

if TYPE_CHECKING:
    from toolorchestra.cluster_client.kube import Kube

INSTALL = "pip install 'toolorchestra[client]'"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Folder of the service account's files in a pod."""


def connect(*, kubeconfig: Path | None = None, context: str | None = None, namespace: str | None = None) -> Kube:
    """Return a client from `kubeconfig`, $KUBECONFIG or ~/.kube/config, else from the pod's service account.

    The default namespace is that of the context. No request is sent yet.

    Raises:
        NoClient: the client library is not installed.
        NoCluster: no cluster is configured, or the kubeconfig does not have this context.
    """
    try:
        from kubernetes.client import ApiClient, Configuration
        from kubernetes.config import ConfigException

        from toolorchestra.cluster_client.kube import Kube
    except ModuleNotFoundError as error:
        raise NoClient(f"cluster commands need the client library ({error.name} is missing): {INSTALL}") from error

    configuration = Configuration()
    configuration.retries = False
    if kubeconfig is None and context is None and not _has_kubeconfig() and _in_cluster():
        own = _of_pod(configuration)
        context = ""
    else:
        try:
            context, own = _of_kubeconfig(configuration, kubeconfig, context)
        except ConfigException as error:
            raise NoCluster(f"{_which(kubeconfig)}: {error}") from error
    client = ApiClient(configuration)
    client.user_agent = f"orchestra/{__version__}"
    return Kube(client, namespace or own, context)


def _has_kubeconfig() -> bool:
    return bool(os.environ.get("KUBECONFIG")) or (Path.home() / ".kube" / "config").exists()


def _in_cluster() -> bool:
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST"))


def reachable_config() -> bool:
    """Return whether a cluster is configured; only then can a name mean a training on a cluster."""
    return _has_kubeconfig() or _in_cluster()


def _of_pod(configuration: Any) -> str:
    """Configure the client from the pod's service account; return its namespace."""
    from kubernetes.config import ConfigException, load_incluster_config

    try:
        load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        return (ACCOUNT / "namespace").read_text(encoding="utf-8").strip() or "default"
    except (ConfigException, OSError) as error:
        raise NoCluster(f"the service account of this pod cannot be used: {error}") from error


def _of_kubeconfig(configuration: Any, kubeconfig: Path | None, context: str | None) -> tuple[str, str]:
    """Configure the client from a kubeconfig; return the context's name and its namespace."""
    from kubernetes.config import list_kube_config_contexts, load_kube_config

    if kubeconfig is None and not _has_kubeconfig():
        raise NoCluster("no cluster: there is no ~/.kube/config, $KUBECONFIG is not set, and this is not a pod")
    if kubeconfig is not None and not kubeconfig.is_file():
        raise NoCluster(f"--kubeconfig {kubeconfig}: no such file")
    file = None if kubeconfig is None else str(kubeconfig)
    contexts, active = list_kube_config_contexts(config_file=file)  # type: ignore[no-untyped-call]
    names = [one["name"] for one in contexts]
    name = str(context or (active or {}).get("name"))
    if name not in names:
        raise NoCluster(f"--context {name}: not in {_which(kubeconfig)}, which has {', '.join(names) or 'none'}")
    chosen = next(one for one in contexts if one["name"] == name)
    load_kube_config(  # type: ignore[no-untyped-call]
        config_file=file, context=name, client_configuration=configuration, persist_config=False
    )
    return name, str(chosen["context"].get("namespace") or "default")


def _which(kubeconfig: Path | None) -> str:
    return str(kubeconfig) if kubeconfig is not None else os.environ.get("KUBECONFIG") or "~/.kube/config"
