"""What a new run writes down, and how a life of it is closed."""

from __future__ import annotations

from pathlib import Path

import pytest

from toolorchestra.api.load import load
from toolorchestra.evaluation.archive import expert_pools, training_spec
from toolorchestra.local.launch import _finish_manifest, _finish_status, new_run, versions
from toolorchestra.local.plan import LocalPlan

TINY = Path(__file__).parents[2] / "support" / "tiny_run"


def plan(*, skills: Path | None = TINY / "skills.yaml") -> LocalPlan:
    found = load(TINY / "training.yaml")
    return LocalPlan(found.trainings[0], found.pools, Path("model"), {"models": Path(".")}, skills, 0.5, ())


def test_a_manifest_is_enough_to_go_on_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TINY)
    run = new_run(tmp_path / "runs", plan(), inputs=[Path("training.yaml")])
    manifest = run.read_manifest()
    assert run.root.is_absolute()
    assert manifest["options"] == {
        "inputs": [str(TINY / "training.yaml")],
        "simulator": str(TINY / "skills.yaml"),
        "volumes": {"models": str(TINY)},
        "timeScale": 0.5,
        "folder": str(TINY),
        "device": "cpu",
    }
    assert manifest["seed"] == plan().training.spec.algorithm.seed
    assert manifest["simulated"] == ["small", "large"]
    assert training_spec(manifest)["algorithm"]["groupSize"] == 2
    assert set(expert_pools(manifest)) == {"small", "large"}


def test_two_runs_of_one_second_are_two_folders(tmp_path: Path) -> None:
    made = [new_run(tmp_path, plan(), inputs=[]) for _ in range(3)]
    assert len({run.root for run in made}) == 3
    assert len({run.read_manifest()["uid"] for run in made}) == 3


def test_versions_name_what_numbers_depend_on() -> None:
    assert {"python", "torch", "ray", "transformers", "nats-py"} <= set(versions())


def test_every_life_is_written_down(tmp_path: Path) -> None:
    run = new_run(tmp_path, plan(), inputs=[])
    _finish_manifest(run, "Cancelled", seconds=12.34)
    _finish_manifest(run, "Complete", seconds=5.0)
    lives = run.read_manifest()["lives"]
    assert [(life["state"], life["seconds"]) for life in lives] == [("Cancelled", 12.3), ("Complete", 5.0)]


def test_a_controller_that_was_killed_leaves_no_running_behind(tmp_path: Path) -> None:
    run = new_run(tmp_path, plan(), inputs=[])
    run.set_status({"state": "Running", "step": 3, "steps": 10})
    _finish_status(run, "Cancelled")
    status = run.read_status()
    assert (status["state"], status["step"]) == ("Cancelled", 3)
    assert "at once" in status["message"]

    run.set_status({"state": "Complete", "message": "all steps are done"})
    _finish_status(run, "Complete")
    assert run.read_status()["message"] == "all steps are done"
