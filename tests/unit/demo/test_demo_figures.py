"""The figures that the docs give of the demo: made from raw results, and told as these are."""

from typing import Any

import pytest
from demo.figures import AGAIN, BEGIN, CHANGES, END, SEEDS, SUITES, chosen, figures, tables, with_tables


def system(name: str, suite: str, *, accuracy: float, usd: float) -> dict[str, Any]:
    return {"system": name, "suite": suite, "accuracy": accuracy, "nominalUSDPerTask": usd, "reward": 0.5, "tasks": 360}


SYSTEMS = {
    "policy": 0.000248,
    "bestExpert": 0.0023,
    "always:sage": 0.0023,
    "initialPolicy": 0.0006,
    "oracle": 0.00016,
    "cascade": 0.00094,
}
REACHED = {"bestExpert": 0.842, "always:sage": 0.842, "initialPolicy": 0.583, "oracle": 0.997, "cascade": 0.772}


def report(*, accuracy: float = 0.964) -> dict[str, Any]:
    """A run's report, as far as figures need it."""
    reached = {"policy": accuracy, **REACHED}
    return {
        "evaluations": [
            system(name, suite, accuracy=reached[name], usd=usd) for suite in SUITES for name, usd in SYSTEMS.items()
        ],
        "evaluationDetails": [
            {
                "system": name,
                "suite": suite,
                "byTopic": {},
                "besideBest": {
                    "tasks": 360,
                    "accuracy": reached[name],
                    "nominalUSDPerTask": usd,
                    "bestAccuracy": REACHED["bestExpert"],
                    "bestNominalUSDPerTask": SYSTEMS["bestExpert"],
                },
            }
            for suite in SUITES
            for name, usd in SYSTEMS.items()
        ],
        "comparisons": [
            {"suite": suite, "against": "initialPolicy", "measure": "reward", "interval": [0.47, 0.55]}
            for suite in SUITES
        ],
    }


def cell(*, accuracy: float = 0.964) -> dict[str, Any]:
    return {"code": "abc", "minutes": 9.3, "suites": figures(report(accuracy=accuracy), seed=0)}


def test_every_run_has_its_place() -> None:
    cells = {c.name: cell() for c in (*SEEDS, *CHANGES, *AGAIN)}
    told = tables(cells)
    assert told.count("0.964, 10.8 %") == 3 * 3 + 4 * 3 + 5
    assert all(f"`{c.change}`" in told for c in CHANGES)
    assert "± 0.000" in told
    assert "0.997, 7.0 %" in told


def test_a_missed_bar_is_told() -> None:
    """One more on every suite: the policy's accuracy, below the best expert's."""
    good, bad = (
        sum(len(suite["missed"]) for suite in cell(accuracy=accuracy)["suites"].values()) for accuracy in (0.964, 0.5)
    )
    assert bad == good + len(SUITES)
    assert f"bars missed: {bad}." in tables({"seed-0": cell(accuracy=0.5)})


def test_the_page_is_changed_between_its_marks_only() -> None:
    page = f"before\n{BEGIN}\nold\n{END}\nafter"
    new = with_tables(page, {"seed-0": cell()})
    assert new.startswith(f"before\n{BEGIN}")
    assert new.endswith(f"{END}\nafter")
    assert "old" not in new
    assert with_tables(new, {"seed-0": cell()}) == new
    with pytest.raises(ValueError, match="has no place for figures"):
        with_tables("no marks", {"seed-0": cell()})


def test_an_unknown_run_is_refused_by_name() -> None:
    with pytest.raises(SystemExit, match="no such cell: seed-9"):
        chosen(["seed-9"])
