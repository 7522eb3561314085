"""The figures that the docs give of the demo: made from raw results, and told as these are."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from demo.figures import AGAIN, BEGIN, CHANGES, END, PAGE, RAW, SEEDS, SUITES, chosen, figures, tables, with_tables
from demo.seeds import rows, spreads, table_of
from rich.console import Console

ROOT = Path(__file__).parents[3]


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


def printed(found: list[dict[str, Any]]) -> list[list[str]]:
    """The table of seeds as it is read: its cells, row by row."""
    console = Console(width=400, file=io.StringIO(), record=True)
    console.print(table_of(found))
    lines = [line for line in console.export_text().splitlines() if "│" in line]
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in lines]


def test_the_table_of_seeds_compares_on_common_tasks() -> None:
    """As the bars do: the best expert's own accuracy is over tasks that the policy may not have been scored on."""
    told = report()
    beside = next(d["besideBest"] for d in told["evaluationDetails"] if d["system"] == "policy")
    beside |= {"accuracy": 0.95, "bestAccuracy": 0.9, "nominalUSDPerTask": 0.0001, "bestNominalUSDPerTask": 0.001}
    first, second, _ = printed(rows(told, 0))
    assert first[:5] == ["held-out", "0", "0.950", "0.900", "10.0%"]
    assert second[:5] == ["unseen-aliases", "0", "0.964", "0.842", "10.8%"]
    assert next(spreads(rows(told, 0) + rows(report(), 1))) == "held-out: accuracy 0.957 ± 0.010 over 2 seeds"


def test_what_there_is_not_is_a_dash() -> None:
    """No expert was scored, or the best one cost nothing, or nothing at all was measured of the policy."""
    told = report()
    details = [d for d in told["evaluationDetails"] if d["system"] == "policy"]
    details[0]["besideBest"] = None
    details[1]["besideBest"]["bestNominalUSDPerTask"] = 0.0
    told["evaluationDetails"].remove(details[2])
    absent = {"system": "policy", "suite": SUITES[2]}
    told["evaluations"] = [
        row for row in told["evaluations"] if row["system"] != "bestExpert" and not absent.items() <= row.items()
    ]
    dashes, free, gone = printed(rows(told, 0))
    assert dashes[:5] == ["held-out", "0", "-", "-", "-"]
    assert free[:5] == ["unseen-aliases", "0", "0.964", "0.842", "-"]
    assert gone == ["unseen-prices", "0", "-", "-", "-", "-"]
    assert next(spreads(rows(told, 0))) == "held-out: accuracy - over 0 seeds"


def test_the_page_tells_what_was_measured() -> None:
    """The committed tables are those of the committed raw figures, and no bar was missed."""
    page, cells = (ROOT / PAGE).read_text(), json.loads((ROOT / RAW).read_text())
    assert with_tables(page, cells) == page, "make demo-figures writes both"
    assert "bars missed: 0." in page
