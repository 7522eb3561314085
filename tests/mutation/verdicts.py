"""Verdicts: written down one by one, so that a run goes on where it was; and what they come to."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

GOAL = 95.0
"""Percent of the mutants that are not declared."""


def digest(paths: Iterable[Path]) -> str:
    whole = hashlib.sha256()
    for path in sorted(paths):
        whole.update(path.name.encode() + path.read_bytes())
    return whole.hexdigest()[:16]


class Verdicts:
    """A file of lines, one verdict each. What was killed stays so while its file is the same; what survived is tried
    again when a test was changed."""

    def __init__(self, path: Path, sources: Mapping[str, str], tests: str) -> None:
        """`sources`: digest of each source file. `tests`: of all tests."""
        self._path, self._sources, self._tests = path, sources, tests
        self._known: dict[str, bool] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                told = json.loads(line)
            except ValueError:
                continue  # cut off in its middle
            if sources.get(told["key"].split(" | ")[0]) != told["source"]:
                continue
            if told["killed"] or told["tests"] == tests:
                self._known[told["key"]] = told["killed"]
            else:
                self._known.pop(told["key"], None)

    def of(self, key: str) -> bool | None:
        """Whether it was killed; None: not known."""
        return self._known.get(key)

    def add(self, key: str, killed: bool, how: str) -> None:
        source = self._sources[key.split(" | ")[0]]
        told = {"key": key, "killed": killed, "how": how, "source": source, "tests": self._tests}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a") as file:
            file.write(json.dumps(told, ensure_ascii=False) + "\n")
        self._known[key] = killed


@dataclass(frozen=True)
class Declared:
    """Survivors that are known: by key, why each changes nothing that matters."""

    why: Mapping[str, str]

    @classmethod
    def read(cls, path: Path) -> Declared:
        """ValueError where one has no reason."""
        why: dict[str, str] = {}
        for one in tomllib.loads(path.read_text()).get("survivor", ()):
            for change in one["changes"]:
                why[" | ".join((one["file"], one["function"], one["operator"], change))] = one["why"].strip()
        if silent := [key for key, reason in why.items() if not reason]:
            raise ValueError(f"{path.name}: why? {silent[0]}")
        return cls(why)


@dataclass(frozen=True)
class Summary:
    """What a module's mutants came to. `stale`: declared, and dead or gone."""

    module: str
    total: int
    killed: int
    declared: int
    untried: int
    survivors: tuple[str, ...]
    stale: tuple[str, ...]
    files: Mapping[str, Mapping[str, int]]

    @classmethod
    def of(cls, module: str, files: Sequence[str], keys: Sequence[str], known: Verdicts, declared: Declared) -> Summary:
        """Of the mutants with these keys, in these files."""
        there, survivors, by_file = set(keys), [], {file: Counter[str]() for file in files}
        killed = excused = untried = 0
        stale = [f"no such mutant: {key}" for key in declared.why if key.split(" | ")[0] in files and key not in there]
        for key in keys:
            counts, verdict = by_file[key.split(" | ")[0]], known.of(key)
            counts["total"] += 1
            if verdict is None:
                untried += 1
            elif verdict:
                killed += 1
                counts["killed"] += 1
                if key in declared.why:
                    stale.append(f"killed: {key}")
            elif key in declared.why:
                excused += 1
                counts["declared"] += 1
            else:
                survivors.append(key)
        per_file = {file: dict(sorted(counts.items())) for file, counts in by_file.items() if counts}
        return cls(module, len(keys), killed, excused, untried, tuple(survivors), tuple(stale), per_file)

    @property
    def percent(self) -> float:
        """Killed, of those that were tried and are not declared."""
        counted = self.killed + len(self.survivors)
        return 100.0 * self.killed / counted if counted else 100.0

    @property
    def good(self) -> bool:
        return self.percent >= GOAL and not self.stale

    def __str__(self) -> str:
        left = f", {self.untried} not tried" if self.untried else ""
        share = f"{self.killed} of {self.total} killed, {self.declared} declared, {len(self.survivors)} survived{left}"
        return f"{self.module}: {share}: {self.percent:.1f} %"

    def write(self, path: Path) -> None:
        told: dict[str, Any] = {**vars(self), "percent": round(self.percent, 1)}
        path.write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n")
