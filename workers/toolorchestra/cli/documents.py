"""Reads the resources in the files of `-f` for a cluster: the models check them, and they are sent as written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolorchestra.api.bundle import Bundle
from toolorchestra.api.documents import Document, files_of, read_documents
from toolorchestra.api.load import load, read_resource
from toolorchestra.api.mistakes import ResourceError
from toolorchestra.api.pool import ExpertPool
from toolorchestra.api.resource import Resource
from toolorchestra.api.schema import structural_schema, without_nulls
from toolorchestra.api.training import OrchestratorTraining
from toolorchestra.cli.say import fail

DEFAULT_NAMESPACE = "default"


@dataclass(frozen=True)
class Sent:
    """One custom resource: the parsed model, and the manifest to send, with its namespace."""

    resource: ExpertPool | OrchestratorTraining
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        return self.resource.metadata.name

    @property
    def kind(self) -> str:
        return self.resource.kind

    @property
    def namespace(self) -> str:
        return str(self.manifest["metadata"]["namespace"])


@dataclass(frozen=True)
class Documents:
    """The resources of the files: pools and trainings, each in the order of the files.

    `local`: resources of kinds that are not sent to a cluster, as `Kind/name`.
    """

    pools: tuple[Sent, ...]
    trainings: tuple[Sent, ...]
    local: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[Sent, ...]:
        return (*self.pools, *self.trainings)

    @property
    def namespaces(self) -> tuple[str, ...]:
        """The namespaces of all resources, without duplicates."""
        return tuple(dict.fromkeys(one.namespace for one in self.all))

    def bundle(self, namespace: str) -> Bundle:
        """Return the parsed resources of one namespace."""
        return Bundle.of([one.resource for one in self.all if one.namespace == namespace])


def read(files: Sequence[Path] | None, *, namespace: str | None, default: str, resolve: bool) -> Documents:
    """Read all resources in the files. Mistakes end the command with status 2, after all of them are printed.

    `namespace`: the namespace from the command line; a document that names another one is a mistake. `default`: the
    namespace of documents that name none. `resolve`: named experts and models must be in the files.
    """
    if not files:
        fail("no files given: use -f training.yaml [-f pools.yaml]")
    try:
        load(files, resolve=resolve)
    except ResourceError as error:
        fail(str(error))
    found, local = list[Sent](), list[str]()
    for file in files_of(files)[0]:
        for document in read_documents(file)[0]:
            resource, _ = read_resource(document)
            if isinstance(resource, ExpertPool | OrchestratorTraining):
                found.append(Sent(resource, _manifest(document, resource, namespace=namespace, default=default)))
            else:
                local.append(document.subject)
    if not found:
        fail(f"there is no ExpertPool and no OrchestratorTraining in {', '.join(map(str, files))}")
    return Documents(
        tuple(one for one in found if isinstance(one.resource, ExpertPool)),
        tuple(one for one in found if isinstance(one.resource, OrchestratorTraining)),
        tuple(local),
    )


def _manifest(document: Document, resource: Resource, *, namespace: str | None, default: str) -> dict[str, Any]:
    """Return the document as written, with its namespace and without its status, which belongs to the operator."""
    manifest: dict[str, Any] = dict(without_nulls(structural_schema(type(resource)), document.data))
    manifest.pop("status", None)
    said = manifest["metadata"].get("namespace")
    if namespace is not None and said not in (None, namespace):
        fail(f"{document.file}: {document.subject} names namespace {said}, but -n names {namespace}: remove one")
    manifest["metadata"] = {**manifest["metadata"], "namespace": namespace or said or default}
    return manifest
