"""YAML documents, read by libyaml where it is there: CRDs and rendered charts are hundreds of kilobytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def documents(text: str) -> Iterator[Any]:
    """Every document of the text; not those that are empty."""
    for one in yaml.load_all(text, Loader=_LOADER):
        if one is not None:
            yield one
