"""From what the controller told over NATS to the fields of status. Of this attempt, or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

_EVALUATED = {"reward": "reward", "accuracy": "accuracy", "nominalUSDPerTask": "usdPerTask"}
"""Of the last evaluation. They win: a combiner may centre the rewards of a step, whose mean then says nothing."""
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
"""How often progress is copied into status at most."""
LONGEST_SECONDS = 60.0
"""And at least: what does more than tell progress wakes its training anyway."""
_DIGITS = 6
_MOST_DOLLAR_DIGITS = 9
_DIGITS_OF = {"usdPerTask": _MOST_DOLLAR_DIGITS}


def of_attempt(progress: Mapping[str, Any], attempt: int) -> Mapping[str, Any]:
    """The progress, where it is this attempt's."""
    return progress if progress.get("attempt") == attempt else {}


def look_after(progress: Mapping[str, Any], now: datetime) -> float:
    """Seconds until the next look at a progress: the longer nothing was told, the longer.

    A look costs some twenty requests: a training whose steps take minutes needs none every ten seconds.
    """
    updated = progress.get("updated")
    if progress.get("state") != "Running" or not isinstance(updated, int | float):
        return LOOK_SECONDS
    return min(LONGEST_SECONDS, max(LOOK_SECONDS, (now.timestamp() - updated) / 2))


def status_fields(progress: Mapping[str, Any], *, claim: str, root: str) -> dict[str, Any]:
    """Status of a progress. `claim` and `root` (where it is mounted) say where a path in storage lies. None of it where
    a part cannot be read (the image may be of another release): suspension and deadlines do not wait for that.
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
    """A decimal string without an exponent: there are no floats in a resource."""
    text = f"{Decimal(repr(float(value))):.{digits}f}".rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def dollars(value: Decimal) -> str:
    text = f"{value:.{_MOST_DOLLAR_DIGITS}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def uri(path: str, *, claim: str, root: str) -> str:
    """`pvc://claim/…` of a path in storage."""
    return f"pvc://{claim}/{path.removeprefix(root).lstrip('/')}"
