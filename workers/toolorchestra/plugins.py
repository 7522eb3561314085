"""Plug-ins: parts that other packages bring, found by their entry points (packaging.python.org, "Entry points").

YAML and task files name one `package/Name`: the distribution that brings it, as PyPI normalises it (PEP 503), and the
name of its entry point. So two packages can never mean different things by one name.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal

Group = Literal[
    "toolorchestra.combiners", "toolorchestra.graders", "toolorchestra.objectives", "toolorchestra.task_sources"
]
"""Groups of entry points that are looked at."""

PATTERN = "[a-z0-9]([-a-z0-9]*[a-z0-9])?/[A-Za-z0-9][-._A-Za-z0-9]*"
"""`package/Name`, as a regular expression without anchors."""
MOST_CHARACTERS = 128

_MOST_ERROR = 300
"""Characters shown of what a plug-in raised."""


class PluginError(ValueError):
    """A plug-in is not installed, cannot be imported, or broke its contract. The text says which, and what to do."""


def is_plugin(name: str) -> bool:
    """Whether a name is meant as `package/Name`: none of this project's own has a slash."""
    return "/" in name


def installed(group: Group) -> tuple[str, ...]:
    """Names of the group's plug-ins that are installed here, sorted; one that is there twice comes twice."""
    return tuple(sorted(map(_name, entry_points(group=group))))


@cache
def load(group: Group, name: str) -> Any:
    """What the entry point refers to, imported once in this process.

    Raises:
        PluginError: not installed, there twice, or its import raised.
    """
    what = described(group, name)
    found = [each for each in entry_points(group=group) if _name(each) == name]
    if not found:
        others = ", ".join(dict.fromkeys(installed(group))) or "none"
        raise PluginError(
            f"{what} is not installed here (installed: {others}): install its package where the training"
            " runs, on a cluster into its images (docs/extending.md)"
        )
    if len(found) > 1:
        values = ", ".join(each.value for each in found)
        raise PluginError(f"{what} is there {len(found)} times ({values}): its package must name each once")
    try:
        return found[0].load()
    except (Exception, SystemExit) as error:
        raise PluginError(f"{what} cannot be imported from {found[0].value}: {shown(error)}") from error


def described(group: Group, name: str) -> str:
    """`combiner acme/Cheapest`, for messages."""
    return f"{group.partition('.')[2].removesuffix('s').replace('_', ' ')} {name}"


def shown(error: BaseException) -> str:
    """Type and text of an error, on one line and not too long."""
    text = " ".join(str(error).split())[:_MOST_ERROR]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _name(entry: EntryPoint) -> str:
    package = entry.dist.name if entry.dist is not None else ""
    return f"{re.sub(r'[-_.]+', '-', package).lower()}/{entry.name}"
