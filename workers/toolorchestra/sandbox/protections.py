"""Protections of a zygote and its children. Each is set up separately, and reported as held or missing.

The zygote sets them up before it imports the program. A protection that cannot be set up is reported with the reason.
The empty environment, the limits and the separate process work everywhere.
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
    """`held`: names of the active protections; `missing`: name → reason of those that are not active."""

    held: tuple[str, ...]
    missing: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def weak(self) -> bool:
        """Whether there is only a subprocess with limits: neither network nor file system are protected."""
        return SECCOMP in self.missing and LANDLOCK in self.missing and BUBBLEWRAP in self.missing

    def __str__(self) -> str:
        lines = f"active: {', '.join(self.held)}"
        if self.missing:
            lines += f"; missing: {', '.join(f'{name} ({reason})' for name, reason in self.missing.items())}"
        return lines

    @classmethod
    def read(cls, value: Mapping[str, Any]) -> Protections:
        """Read the value of `dump`."""
        return cls(held=tuple(value["held"]), missing=dict(value["missing"]))

    def dump(self) -> dict[str, Any]:
        """Return the protections as a JSON value."""
        return {"held": list(self.held), "missing": dict(self.missing)}


def readable_paths(modules: Iterable[str]) -> Sequence[Path]:
    """Return the paths of Python's own code and its libraries. `modules`: the zygote's search path.

    They have no data of a run, of a home folder or of the system's state.
    """
    folders = {Path(each).resolve() for each in (*modules, sys.base_prefix, sys.prefix) if each}
    system = [Path(each) for each in ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/usr/share/zoneinfo")]
    devices = [Path(each) for each in ("/dev/null", "/dev/urandom", "/dev/zero")]
    return (*sorted(folders), *system, *devices)


def put_up(*, outside: Protections) -> Protections:
    """Protect this process and all its children. `outside`: the protections around this process (bubblewrap)."""
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
