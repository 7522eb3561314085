"""Converts the controller's report over NATS into fields of status, if the report is of the present attempt."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

_EVALUATED = {"reward": "reward", "accuracy": "accuracy", "nominalUSDPerTask": "usdPerTask"}
"""Metrics of the last evaluation. They take precedence: a combiner may centre a step's rewards around zero."""
_METRICS = {
    "reward_mean": "reward",
    "accuracy": "accuracy",
    "nominal_usd_per_task": "usdPerTask",
    "service_seconds_per_task": "serviceSecondsPerTask",
    "staleness_mean": "staleness",
    "tokens_per_second": "tokensPerSecond",
    "trainer_idle_fraction": "trainerIdleFraction",
}
LOOK_SECONDS = 10.0
"""The shortest interval in seconds at which progress is copied into status."""
LONGEST_SECONDS = 60.0
"""The longest interval; any other important change triggers a reconcile itself."""
_DIGITS = 6
_MOST_DOLLAR_DIGITS = 9
_DIGITS_OF = {"usdPerTask": _MOST_DOLLAR_DIGITS}


def of_attempt(progress: Mapping[str, Any], attempt: int) -> Mapping[str, Any]:
    """Return the progress if it is this attempt's, else empty."""
    return progress if progress.get("attempt") == attempt else {}


def look_after(progress: Mapping[str, Any], now: datetime) -> float:
    """Return the seconds until the next read of the progress; they grow with the time since the last report.

    A reconcile costs some twenty requests, which a training whose steps take minutes does not need every ten seconds.
    """
    updated = progress.get("updated")
    if progress.get("state") != "Running" or not isinstance(updated, int | float):
        return LOOK_SECONDS
    return min(LONGEST_SECONDS, max(LOOK_SECONDS, (now.timestamp() - updated) / 2))


def status_fields(progress: Mapping[str, Any], *, claim: str, root: str) -> dict[str, Any]:
    """Return the status fields of a progress. `claim` and `root` (its mount path) turn a path in storage into a URI. If
    any part cannot be read (the image may be of another release), return none: suspension and deadlines go on without.
    """
    try:
        return _fields(progress, claim=claim, root=root)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return {}


def _fields(progress: Mapping[str, Any], *, claim: str, root: str) -> dict[str, Any]:
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
    found: dict[str, str] = {}
    for names, told in ((_METRICS, progress.get("metrics")), (_EVALUATED, progress.get("evaluation"))):
        known = {ours: (told or {}).get(theirs) for theirs, ours in names.items()}
        found |= {
            ours: decimal(value, digits=_DIGITS_OF.get(ours, _DIGITS))
            for ours, value in known.items()
            if value is not None
        }
    return found


def decimal(value: float, *, digits: int = _DIGITS) -> str:
    """Return a decimal string without an exponent: a resource has no floats."""
    text = f"{Decimal(repr(float(value))):.{digits}f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def dollars(value: Decimal) -> str:
    text = f"{value:.{_MOST_DOLLAR_DIGITS}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def uri(path: str, *, claim: str, root: str) -> str:
    """Return the URI `pvc://claim/…` of a path in storage."""
    return f"pvc://{claim}/{path.removeprefix(root).lstrip('/')}"
