"""A small share of `make faults`: two combinations, seconds each."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.__main__ import main


@pytest.mark.parametrize("name", ["memory-s4-drop", "nats-s0-wait"])
def test_a_run_under_faults_ends_by_itself_with_exact_books(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(["--only", name, "--episodes", "160", "--real", "0", "--seed", "1", "--folder", str(tmp_path)])
    assert code == 0, capsys.readouterr().out
    assert (tmp_path / "results.json").exists()
