"""One result of the preflight."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "unknown", "missing"]
"""`note`: it works, but the user should know this; `unknown`: it could not be checked; `missing`: it cannot work."""


@dataclass(frozen=True)
class Line:
    """One line of the result. `about`: its topic, in one or two words; `remedy`: what to do, or the command for it."""

    level: Level
    about: str
    text: str
    remedy: str = ""

    def as_json(self) -> dict[str, str]:
        return {"level": self.level, "about": self.about, "text": self.text, "remedy": self.remedy}
