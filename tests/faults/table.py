"""Figures of all combinations as a table for people, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from faults.play import Outcome

COLUMNS = ("episodes", "trained", "kills", "duplicates", "lost", "deferrals", "lates", "dropped", "lives")
MONEY = ("charged", "settled", "cap")


def row_of(outcome: Outcome) -> dict[str, Any]:
    """One line's cells."""
    figures, kills = outcome.figures, outcome.kills
    messages = figures.get("messages", {})
    short = {"worker": "w", "controller": "c", "engine": "e", "actor": "a", "nats": "n"}
    return {
        "combination": outcome.name,
        "episodes": figures.get("episodes", 0),
        "trained": figures.get("trained", 0),
        "kills": " ".join(f"{kills[kind]}{letter}" for kind, letter in short.items() if kills.get(kind)),
        "duplicates": messages.get("twice", 0) + messages.get("unacked", 0),
        "lost": messages.get("lost_order", 0) + messages.get("lost_ack", 0) + messages.get("refused", 0),
        "deferrals": figures.get("deferrals", 0),
        "lates": figures.get("lates", 0),
        "dropped": figures.get("dropped", 0),
        "lives": figures.get("incarnations", 0),
        "charged": f"${figures.get('charged_usd', 0):.2f}",
        "settled": f"${figures.get('settled_usd', 0):.2f}",
        "cap": f"${figures.get('cap_usd', 0):.0f}",
        "resumes": kills.get("resumes", 0) + kills.get("caps", 0),
        "seconds": round(outcome.seconds),
        "": "exact" if outcome.good else f"{len(outcome.problems)} WRONG",
    }


def table(outcomes: Sequence[Outcome]) -> str:
    """All rows under one head. Kills: w worker, c controller, e engine, a its actor, n nats-server."""
    rows = [row_of(outcome) for outcome in outcomes]
    if not rows:
        return "nothing was run"
    widths = {key: max(len(key), *(len(str(row[key])) for row in rows)) for key in rows[0]}
    head = "  ".join(key.ljust(width) for key, width in widths.items())
    lines = ["  ".join(str(row[key]).ljust(width) for key, width in widths.items()).rstrip() for row in rows]
    return "\n".join([head.rstrip(), "-" * len(head), *lines])


def problems(outcomes: Sequence[Outcome]) -> str:
    """What differs, by combination and seed."""
    return "\n".join(
        f"{outcome.name} (seed {outcome.seed}): {problem}" for outcome in outcomes for problem in outcome.problems
    )


def write(outcomes: Sequence[Outcome], path: Path) -> None:
    """Raw results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1, default=str) + "\n")
