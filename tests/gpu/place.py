"""Where a check runs and what it may use. Plain data, handed to its process as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Place:
    """`tiny`: sizes that a CPU computes in seconds; then bars on speed and memory say nothing and are left out."""

    device: Literal["cpu", "cuda"]
    tiny: bool
    folder: Path
    """For logs and runs. What ends in .log here is kept in the results where the check fails."""
    scratch: Path
    """For large files; removed after the check. In memory where the machine has room there."""
    subject: str = ""
    """Which of its subjects a check is about, such as the model's size."""
    demo_steps: int = 140
    smollm: Path | None = None
    """Folder of SmolLM2-135M-Instruct."""

    @property
    def cuda(self) -> bool:
        return self.device == "cuda"

    def bar(self, value: float) -> float | None:
        """A bar on speed or memory; None where it would say nothing."""
        return value if self.cuda and not self.tiny else None

    def write(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def read(cls, text: str) -> Place:
        fields = json.loads(text)
        paths = {name: Path(fields[name]) for name in ("folder", "scratch", "smollm") if fields[name] is not None}
        return cls(**(fields | paths))
