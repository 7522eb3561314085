"""Load resources from YAML files: `load(paths) -> Bundle`, or a ResourceError with every mistake of every file.

The files are read as `kubectl apply` reads them: several documents per file, in any order; unknown keys are refused.
Loading spends no money, starts nothing and downloads nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path as FilePath
from typing import Any

from pydantic import ValidationError

from toolorchestra.api.base import API_VERSION
from toolorchestra.api.bundle import Bundle
from toolorchestra.api.documents import Document, files_of, read_documents
from toolorchestra.api.explain import did_you_mean, explain, shown
from toolorchestra.api.kinds import KINDS
from toolorchestra.api.mistakes import Mistake, ResourceError
from toolorchestra.api.resource import Resource
from toolorchestra.api.schema import Path, structural_schema, violations, with_defaults, without_nulls

Loaded = list[tuple[Document, Resource]]


def load(paths: Iterable[FilePath | str] | FilePath | str, *, resolve: bool = True) -> Bundle:
    """Read every document of these files and folders.

    `resolve` also checks references between resources: named or selected pools must be in the files. Set it to False to
    read one file alone.

    Raises:
        ResourceError: with all mistakes of all files, in the files' order.
    """
    given = [paths] if isinstance(paths, FilePath | str) else list(paths)
    files, mistakes = files_of(given)
    loaded: Loaded = []
    for file in files:
        documents, unreadable = read_documents(file)
        mistakes += unreadable
        for document in documents:
            resource, wrong = read_resource(document)
            told = {one.path for one in unreadable if one.document == document.index}
            mistakes += [one for one in wrong if one.path not in told]
            if resource is not None:
                loaded.append((document, resource))
    mistakes += _repeated_names(loaded)
    bundle = Bundle.of([resource for _, resource in loaded])
    if resolve and not mistakes:
        mistakes += [
            document.mistake(path, message)
            for document, resource in loaded
            for path, message in bundle.findings(resource)
        ]
    if mistakes:
        raise ResourceError(mistakes)
    return bundle


def read_resource(document: Document) -> tuple[Resource | None, list[Mistake]]:
    """Return the resource in a document, or None and its mistakes."""
    if not isinstance(document.data, Mapping):
        return None, [document.mistake((), f"want a resource (apiVersion, kind, spec), got {shown(document.data)}")]
    kind = document.data.get("kind")
    model = KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        return None, _unknown_kind(document, kind)
    data = without_nulls(structural_schema(model), document.data)
    try:
        return model.model_validate(data, by_alias=True, by_name=False), []
    except ValidationError as error:
        return None, _mistakes(document, data, model, error)


def _unknown_kind(document: Document, kind: object) -> list[Mistake]:
    mistakes = _wrong_version(document)
    if kind is None:
        mistakes.append(document.mistake(("kind",), f"is required: one of {', '.join(KINDS)}"))
    else:
        hint = did_you_mean(str(kind), KINDS)
        mistakes.append(document.mistake(("kind",), f"unknown kind {shown(kind)}; {hint}"))
    return mistakes


def _wrong_version(document: Document) -> list[Mistake]:
    version = document.data.get("apiVersion")
    if version == API_VERSION:
        return []
    got = "is required" if version is None else f"got {shown(version)}"
    return [document.mistake(("apiVersion",), f"{got}: want {API_VERSION}")]


def _mistakes(document: Document, data: Any, model: type[Resource], error: ValidationError) -> list[Mistake]:
    """Return every mistake of a document that did not validate.

    Pydantic checks rules over several fields only if all fields are valid. So the rules are checked again on the raw
    data; a violation at a field that is already reported is left out.
    """
    schema = structural_schema(model)
    found: dict[Path, str] = {}
    for details in error.errors(include_url=False):
        found.setdefault(details["loc"], explain(details, schema))
    for path, message in violations(schema, with_defaults(schema, data)):
        wrong_type = (*path[:-1], "type") in found  # then it is unclear which member is meant
        if not wrong_type and not any(_overlap(path, known) for known in found):
            found[path] = message
    return sorted(
        (document.mistake(path, message) for path, message in found.items()),
        key=lambda mistake: mistake.line or 0,
    )


def _overlap(one: Path, other: Path) -> bool:
    """Return whether one path equals the other, or contains it."""
    shorter = min(len(one), len(other))
    return one[:shorter] == other[:shorter]


def _repeated_names(loaded: Loaded) -> list[Mistake]:
    first: dict[tuple[str, str | None, str], Document] = {}
    mistakes = []
    for document, resource in loaded:
        metadata = getattr(resource, "metadata", None)
        if metadata is None:
            continue
        key = (type(resource).__name__, metadata.namespace, metadata.name)
        earlier = first.setdefault(key, document)
        if earlier is not document:
            place = earlier.mistake(("metadata", "name"), "")
            at = f"{place.file}:{place.line}" if place.line else place.file
            message = f"another {key[0]} has this name, at {at}: rename one"
            mistakes.append(document.mistake(("metadata", "name"), message))
    return mistakes
