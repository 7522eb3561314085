"""How much memory may still be taken here: the machine's, or the container's where that is less."""

from __future__ import annotations

from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
_FILES = (
    ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
)
"""Of cgroups v2 and v1: limit, use, and the use's parts with the name of what the kernel gives back when asked."""


def free_memory(cgroups: Path = CGROUPS) -> int:
    """Bytes."""
    return min([psutil.virtual_memory().available, *_left(cgroups)])


def _left(cgroups: Path) -> list[int]:
    """What each limit that this process sees leaves it; none where it sees none."""
    found = []
    for limit, use, parts, given_back in _FILES:
        try:
            cache = dict(line.split() for line in (cgroups / parts).read_text().splitlines())
            taken = int((cgroups / use).read_text()) - int(cache[given_back])
            found.append(max(0, int((cgroups / limit).read_text()) - taken))
        except (OSError, ValueError, KeyError):  # no such version, no limit ("max"), or not ours to read
            continue
    return found
