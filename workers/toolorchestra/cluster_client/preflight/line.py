"""One thing that was looked at, and how it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "unknown", "missing"]
"""`note`: it works, and a person should know; `unknown`: it could not be looked at; `missing`: it cannot work so."""


@dataclass(frozen=True)
class Line:
    """`about`: one word or two, the first column; `remedy`: what to do, as a sentence or a command."""

    level: Level
    about: str
    text: str
    remedy: str = ""

    def as_json(self) -> dict[str, str]:
        return {"level": self.level, "about": self.about, "text": self.text, "remedy": self.remedy}
