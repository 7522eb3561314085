"""Series for plots: smoothing and Pareto fronts. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Series:
    """A metric over steps: raw values, their running mean, and one standard deviation around it."""

    steps: list[float]
    raw: list[float]
    mean: list[float]
    low: list[float]
    high: list[float]


def metric_series(rows: Sequence[Mapping[str, Any]], key: str) -> Series | None:
    """Return the metric's series, smoothed over a twentieth of the run (at least five steps); None without values."""
    points = [(float(r["step"]), float(r[key])) for r in rows if _is_number(r.get(key))]
    if not points:
        return None
    steps, raw = [p[0] for p in points], [p[1] for p in points]
    reach = max(2, len(points) // 40)
    windows = [raw[max(0, i - reach) : i + reach + 1] for i in range(len(raw))]
    means = [math.fsum(w) / len(w) for w in windows]
    spreads = [math.sqrt(math.fsum((v - m) ** 2 for v in w) / len(w)) for w, m in zip(windows, means, strict=True)]
    return Series(
        steps=steps,
        raw=raw,
        mean=means,
        low=[m - s for m, s in zip(means, spreads, strict=True)],
        high=[m + s for m, s in zip(means, spreads, strict=True)],
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def call_shares(rows: Sequence[Mapping[str, Any]]) -> tuple[list[float], dict[str, list[float]]]:
    """Return the steps, and each tool's share of all calls, averaged over the same window as in `metric_series`."""
    counted = [r for r in rows if sum((r.get("calls") or {}).values()) > 0]
    tools = sorted({tool for r in counted for tool in r["calls"]})
    reach = max(2, len(counted) // 40)
    shares: dict[str, list[float]] = {tool: [] for tool in tools}
    for i in range(len(counted)):
        window = counted[max(0, i - reach) : i + reach + 1]
        total = sum(sum(r["calls"].values()) for r in window)
        for tool in tools:
            shares[tool].append(sum(r["calls"].get(tool, 0) for r in window) / total)
    return [float(r["step"]) for r in counted], shares


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Return the names of the points (cost, accuracy) that no other point beats in both, by rising cost."""
    front: list[str] = []
    best = -math.inf
    for name, (_, accuracy) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1], item[0])):
        if accuracy > best:
            front.append(name)
            best = accuracy
    return front
