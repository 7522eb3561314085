"""What keeps a zygote and its children in: put up one by one, each with its own word on whether it holds.

The zygote does this before it imports what it will run. What cannot be put up is named with the reason, never hidden;
its environment, its limits and its being another process hold everywhere.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from toolorchestra.sandbox import landlock, linux, privileges, seccomp

ALWAYS = ("own process", "empty environment", "limits on CPU, memory, files and output")
BUBBLEWRAP, NO_NEW_PRIVILEGES, CAPABILITIES = "bubblewrap", "no new privileges", "no capabilities"
LANDLOCK, SECCOMP = "Landlock", "seccomp"


@dataclass(frozen=True)
class Protections:
    """`held`: what holds, in words; `missing`: what does not, and why."""

    held: tuple[str, ...]
    missing: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def weak(self) -> bool:
        """Nothing but a subprocess and its limits: neither the network nor the file system is closed."""
        return SECCOMP in self.missing and LANDLOCK in self.missing and BUBBLEWRAP in self.missing

    def __str__(self) -> str:
        lines = f"holds: {', '.join(self.held)}"
        if self.missing:
            lines += f"; does not: {', '.join(f'{name} ({reason})' for name, reason in self.missing.items())}"
        return lines

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> Protections:
        """What `dump` wrote."""
        return cls(held=tuple(value["held"]), missing=dict(value["missing"]))

    def dump(self) -> dict[str, Any]:
        """As JSON."""
        return {"held": list(self.held), "missing": dict(self.missing)}


def readable_paths(modules: Iterable[str]) -> Sequence[Path]:
    """Where Python's own code and its libraries lie (`modules`: the zygote's search path); nothing of a run, of a home
    or of the system's state."""
    folders = {Path(each).resolve() for each in (*modules, sys.base_prefix, sys.prefix) if each}
    system = [Path(each) for each in ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo")]
    devices = [Path(each) for each in ("/dev/null", "/dev/urandom", "/dev/zero")]
    return (*sorted(folders), *system, *devices)


def put_up(*, outside: Protections) -> Protections:
    """Protect this process and every child of it. `outside`: what whoever started it knows (bubblewrap)."""
    held, missing = [*ALWAYS, *outside.held], dict(outside.missing)

    def attempt(name: str, how: Callable[[], object]) -> None:
        try:
            how()
        except OSError as error:
            missing[name] = linux.why(error)
        else:
            held.append(name)

    attempt(CAPABILITIES, privileges.drop_capabilities)
    attempt(NO_NEW_PRIVILEGES, privileges.forbid_new_privileges)
    attempt(LANDLOCK, lambda: landlock.allow_only(readable_paths(sys.path), writable_files=(Path("/dev/null"),)))
    attempt(SECCOMP, seccomp.install_zygote_filter)
    return Protections(held=tuple(held), missing=missing)
