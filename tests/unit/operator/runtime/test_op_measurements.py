"""What a training tells of its experts reaches their pools' status, and equal figures are no news."""

from __future__ import annotations

from typing import Any

from toolorchestra_operator.kubernetes.manifest import Key
from toolorchestra_operator.runtime.measurements import Measurements

POOL = Key("ExpertPool", "research", "sage")
TOLD: dict[str, Any] = {"p50Milliseconds": 900, "p99Milliseconds": 2100, "errorRate": 0.0123, "calls": 40}


def shown(measurements: Measurements) -> dict[str, Any]:
    found = measurements.of(POOL)
    assert found is not None
    return found.model_dump(mode="json", by_alias=True, exclude_none=True)


def test_figures_are_taken_over_and_dated() -> None:
    measurements = Measurements()
    assert measurements.of(POOL) is None
    measurements.hear("research", {"updated": 1_800_000_000.7, "experts": {"sage": TOLD}})
    assert shown(measurements) == {
        "latencyMillisecondsP50": 900,
        "latencyMillisecondsP99": 2100,
        "errorRate": "0.012",
        "at": "2027-01-15T08:00:00Z",
    }
    assert measurements.of(Key("ExpertPool", "elsewhere", "sage")) is None


def test_equal_figures_keep_their_date() -> None:
    measurements = Measurements()
    measurements.hear("research", {"updated": 1_800_000_000, "experts": {"sage": TOLD}})
    measurements.hear("research", {"updated": 1_800_000_060, "experts": {"sage": {**TOLD, "calls": 80}}})
    assert shown(measurements)["at"] == "2027-01-15T08:00:00Z"
    measurements.hear("research", {"updated": 1_800_000_120, "experts": {"sage": {**TOLD, "p50Milliseconds": 901}}})
    assert shown(measurements)["at"] == "2027-01-15T08:02:00Z"


def test_a_training_that_tells_nothing_changes_nothing() -> None:
    measurements = Measurements()
    measurements.hear("research", {})
    measurements.hear("research", {"updated": 1.0, "experts": {}})
    assert measurements.of(POOL) is None
