"""The run's folder is what its description says."""

from __future__ import annotations

from pathlib import Path

from toolorchestra.train import run_dir
from toolorchestra.train.checkpoint import BEST, CheckpointStore
from toolorchestra.train.run_dir import RunDir


def test_every_path_of_a_run_is_described_as_it_is() -> None:
    described = {line.split()[0].rstrip("/") for line in (run_dir.__doc__ or "").splitlines() if "  " in line}
    run = RunDir(Path("run"))
    paths = {name: getattr(run, name) for name, kind in vars(RunDir).items() if isinstance(kind, property)}
    assert {str(path.relative_to("run")) for name, path in paths.items() if name != "name"} == described


def test_a_checkpoints_folder_is_named_as_described() -> None:
    (line,) = [line for line in (run_dir.__doc__ or "").splitlines() if line.startswith("checkpoints/")]
    folder = CheckpointStore(Path("checkpoints")).folder(7).name
    assert "".join("N" if c.isdigit() else c for c in folder) + "/" in line
    assert BEST in line
