"""`file://` URIs: paths in which characters that a URI cannot have are `%XX` (RFC 8089). They may be relative."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

SCHEME = "file://"


def path_of(uri: str) -> Path:
    """Return the path of a `file://` URI; a relative URI gives a relative path."""
    return Path(unquote(uri.removeprefix(SCHEME)))


def absolute(uri: str, *, folder: Path) -> str:
    """Return the absolute URI of a relative `file://` URI. Other URIs are returned unchanged."""
    if not uri.startswith(SCHEME) or path_of(uri).is_absolute():
        return uri
    return SCHEME + quote(str((folder / path_of(uri)).resolve()))


def relative(uri: str, *, folder: str) -> str:
    """Return the URI without `folder` if the file is below it, for messages."""
    head = f"{SCHEME}{quote(folder)}/"
    return SCHEME + uri.removeprefix(head) if folder and uri.startswith(head) else uri


def all_absolute(document: Any, *, folder: Path) -> Any:
    """Return a JSON document in which every relative `file://` URI is absolute."""
    if isinstance(document, dict):
        return {key: all_absolute(value, folder=folder) for key, value in document.items()}
    if isinstance(document, list):
        return [all_absolute(value, folder=folder) for value in document]
    return absolute(document, folder=folder) if isinstance(document, str) else document
