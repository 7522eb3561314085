"""From what the controller told over NATS to the fields of status. Of this attempt, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

_METRICS = {
    "reward_mean": "reward",
    "nominal_usd_per_task": "usdPerTask",
    "service_seconds_per_task": "serviceSecondsPerTask",
    "staleness_mean": "staleness",
    "tokens_per_second": "tokensPerSecond",
    "trainer_idle_fraction": "trainerIdleFraction",
}
_DIGITS = 6
_MOST_DOLLAR_DIGITS = 9


def of_attempt(progress: Mapping[str, Any], attempt: int) -> Mapping[str, Any]:
    """The progress, where it is this attempt's."""
    return progress if progress.get("attempt") == attempt else {}


def status_fields(progress: Mapping[str, Any], *, claim: str, root: str) -> dict[str, Any]:
    """Status of a progress. `claim` and `root` (where it is mounted) say where a path in storage lies."""
    found: dict[str, Any] = {}
    for theirs, ours in (("step", "step"), ("policyVersion", "policyVersion"), ("progressPercentage",) * 2):
        if theirs in progress:
            found[ours] = progress[theirs]
    if "spentUSD" in progress:
        found["spentUSD"] = dollars(Decimal(progress["spentUSD"]))
    if metrics := _metrics(progress):
        found["metrics"] = metrics
    if saved := progress.get("checkpoint"):
        found["checkpoint"] = {
            "step": saved["step"],
            "uri": uri(saved["path"], claim=claim, root=root),
            "time": datetime.fromtimestamp(int(saved["time"]), UTC).isoformat().replace("+00:00", "Z"),
            "digest": saved["digest"],
        }
    return found


def _metrics(progress: Mapping[str, Any]) -> dict[str, str]:
    told: Mapping[str, Any] = progress.get("metrics") or {}
    found = {ours: decimal(told[theirs]) for theirs, ours in _METRICS.items() if told.get(theirs) is not None}
    accuracy = (progress.get("evaluation") or {}).get("accuracy", told.get("accuracy"))
    return found | ({"accuracy": decimal(accuracy)} if accuracy is not None else {})


def decimal(value: float) -> str:
    """A decimal string without an exponent: there are no floats in a resource."""
    text = f"{Decimal(repr(float(value))):.{_DIGITS}f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def dollars(value: Decimal) -> str:
    text = f"{value:.{_MOST_DOLLAR_DIGITS}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def uri(path: str, *, claim: str, root: str) -> str:
    """`pvc://claim/…` of a path in storage."""
    return f"pvc://{claim}/{path.removeprefix(root).lstrip('/')}"
