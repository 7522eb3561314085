"""Measures the free memory: the machine's, or the container's if that is less."""

from __future__ import annotations

from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
"""Files of cgroups v2 and v1: limit, use, statistics, and the statistic of memory that the kernel can reclaim."""


def free_memory(cgroups: Path = CGROUPS) -> int:
    """Return the free memory in bytes."""
    return min([psutil.virtual_memory().available, *_left(cgroups)])


def _left(cgroups: Path) -> list[int]:
    """Return the bytes that each visible cgroup limit leaves; empty where none is visible."""
    found = []
    for limit, use, parts, given_back in _FILES:
        try:
            cache = dict(line.split() for line in (cgroups / parts).read_text().splitlines())
            taken = int((cgroups / use).read_text()) - int(cache[given_back])
            found.append(max(0, int((cgroups / limit).read_text()) - taken))
        except (OSError, ValueError, KeyError):  # no such version, no limit ("max"), or not readable
            continue
    return found
