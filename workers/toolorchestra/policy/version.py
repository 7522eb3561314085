"""The policy version: names the weights that sampled a token."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class PolicyVersion:
    """(incarnation, step). A resume starts a new incarnation, so a version never names two sets of weights."""

    incarnation: int
    step: int

    def __str__(self) -> str:
        return f"{self.incarnation}-{self.step}"

    @classmethod
    def parse(cls, text: str) -> PolicyVersion:
        """Parse `"3-17"`. ValueError for anything else."""
        incarnation, separator, step = text.partition("-")
        if not separator or not incarnation.isdigit() or not step.isdigit():
            raise ValueError(f"not a policy version: {text!r} (want INCARNATION-STEP, such as 0-17)")
        return cls(int(incarnation), int(step))
