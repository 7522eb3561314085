"""A small share of `make faults`: two combinations side by side, in less than a minute of a quiet machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from faults.__main__ import main


def test_runs_under_faults_end_by_themselves_with_exact_books(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = ["--only", "memory-s4-drop,nats-s1-drop", "--episodes", "150", "--real", "0", "--seed", "1"]
    code = main([*chosen, "--folder", str(tmp_path)])
    assert code == 0, capsys.readouterr().out
    assert (tmp_path / "results.json").exists()
