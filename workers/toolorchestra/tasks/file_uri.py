"""`file://` URIs: paths with whatever a URI cannot hold as `%XX` (RFC 8089). A relative one counts from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

SCHEME = "file://"


def path_of(uri: str) -> Path:
    """The path of a `file://` URI, relative where it is."""
    return Path(unquote(uri.removeprefix(SCHEME)))


def absolute(uri: str, *, folder: Path) -> str:
    """The same file, named so that it is found from anywhere. Other URIs, and absolute ones, stay as they are."""
    if not uri.startswith(SCHEME) or path_of(uri).is_absolute():
        return uri
    return SCHEME + quote(str((folder / path_of(uri)).resolve()))


def relative(uri: str, *, folder: str) -> str:
    """For people: a file below `folder` without the folder."""
    head = f"{SCHEME}{quote(folder)}/"
    return SCHEME + uri.removeprefix(head) if folder and uri.startswith(head) else uri


def all_absolute(document: Any, *, folder: Path) -> Any:
    """A document of JSON with every relative `file://` URI in it made absolute."""
    if isinstance(document, dict):
        return {key: all_absolute(value, folder=folder) for key, value in document.items()}
    if isinstance(document, list):
        return [all_absolute(value, folder=folder) for value in document]
    return absolute(document, folder=folder) if isinstance(document, str) else document
