"""Results of checks: one JSON file that is whole at any time, and a Markdown table made from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from gpu.finding import Figure, Note, Skip, decode, encode, shown
from gpu.identity import Identity
from toolorchestra.runs.run_dir import write_atomically

Status = Literal["running", "ok", "missed", "failed", "late", "skipped"]
"""missed: it ended and a bar is not met; failed: it broke off; late: it was killed at its time limit; skipped: it could
not be made here; running: it was under way when the file was last written."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What came of one check. `settings` are the options that change what it does."""

    check: str
    status: Status
    of: Identity
    settings: Mapping[str, Any]
    began: str
    seconds: float = 0.0
    reason: str = ""
    findings: tuple[Figure | Note, ...] = ()
    logs: Mapping[str, str] | None = None
    """Tails of its logs, where it did not end well."""

    @property
    def figures(self) -> tuple[Figure, ...]:
        return tuple(f for f in self.findings if isinstance(f, Figure))

    def passed_as(self, of: Identity, settings: Mapping[str, Any]) -> bool:
        """Whether it is a pass of this code, on this card, with these options."""
        return self.status == "ok" and self.of.same(of) and dict(self.settings) == dict(settings)

    def line(self) -> str:
        """For a terminal: status, name, seconds, and the figures that have a bar."""
        held = [figure.line() for figure in self.figures if figure.met is not None]
        said = "; ".join([*([self.reason] if self.reason else []), *held])
        return f"{self.status:<8} {self.check:<22} {self.seconds:5.0f} s  {said}".rstrip()

    def write(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self) | {"findings": [encode(finding) for finding in self.findings]}

    @classmethod
    def read(cls, row: Mapping[str, Any]) -> Result:
        findings = tuple(f for f in map(decode, row["findings"]) if not isinstance(f, Skip))
        return cls(**(dict(row) | {"of": Identity(**row["of"]), "findings": findings}))


class ResultsFile:
    """The newest result of every check, by name, in the order in which they were first made."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Result]:
        """Empty where there is no file yet."""
        if not self.path.exists():
            return {}
        rows = json.loads(self.path.read_text(encoding="utf-8"))["checks"]
        return {row["check"]: Result.read(row) for row in rows}

    def put(self, result: Result) -> None:
        """Replace the check's result; the file is whole before and after."""
        results = self.read() | {result.check: result}
        rows = [each.write() for each in results.values()]
        write_atomically(self.path, json.dumps({"checks": rows}, indent=1, ensure_ascii=False) + "\n")

    def broken_off(self) -> None:
        """Mark what a killed run left as running."""
        for result in self.read().values():
            if result.status == "running":
                self.put(replace(result, status="failed", reason="the run was cut off while it was under way"))


def table(results: Iterable[Result]) -> str:
    """Markdown: one row per figure, under one row per check."""
    rows = ["| check | figure | value | bar | |", "| --- | --- | --- | --- | --- |"]
    for result in results:
        said = f": {result.reason}" if result.reason else ""
        rows.append(_row(f"**{result.check}**", f"{result.status}{said}", f"{result.seconds:.0f} s", "", ""))
        for f in result.figures:
            met = {None: "", True: "met", False: "missed"}[f.met]
            rows.append(_row("", f.name, f"{shown(f.value)} {f.unit}".strip(), f.bar, met))
    return "\n".join(rows) + "\n"


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in cells)} |"


def report(results: Sequence[Result]) -> str:
    """A Markdown page: where and of what, the table, then every note and log."""
    parts = ["# gpu-check\n", *(f"{of.words()}\n" for of in dict.fromkeys(result.of for result in results))]
    parts.append(table(results))
    for result in results:
        texts = [(f.name, f.text) for f in result.findings if isinstance(f, Note)]
        for name, text in [*texts, *(result.logs or {}).items()]:
            parts.append(f"## {result.check}: {name}\n\n```text\n{text.rstrip()}\n```\n")
    return "\n".join(parts)
