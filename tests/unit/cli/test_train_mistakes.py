"""What `orchestra train` and `resume` say of input that cannot be used: every mistake, its place, no traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from support.run_rig import make_run, model_folder, orchestra
from toolorchestra.api.load import load
from toolorchestra.runs.run_dir import RunDir

TINY = Path(__file__).parents[2] / "support" / "tiny_run"
TRAINING, SKILLS = (TINY / "training.yaml").read_text(encoding="utf-8"), TINY / "skills.yaml"


def written(folder: Path, text: str) -> Path:
    path = folder / "training.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_three_mistakes_are_three_messages_with_their_paths(tmp_path: Path) -> None:
    text = TRAINING.replace("groupSize: 2", "groupSize: 1").replace("learningRate", "learningrate")
    path = written(tmp_path, text.replace("uri: pvc://models/tiny", "uri: s3//models"))
    argv = [sys.executable, "-m", "toolorchestra.cli.main", "train", "-f", str(path), "--simulator", str(SKILLS)]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    head, *said = done.stderr.splitlines()
    assert head == "error: 3 mistakes:"
    assert len(said) == 3
    for line, wanted in zip(said, ("spec.model.uri", "spec.algorithm.groupSize", "spec.algorithm"), strict=True):
        assert re.search(rf"training\.yaml:\d+ \(OrchestratorTraining/tiny\): {re.escape(wanted)}", line)
    assert "did you mean learningRate?" in said[2]
    assert not (tmp_path / "runs").exists(), "nothing was started"


def test_a_note_about_a_task_is_text_whatever_its_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Square brackets were once read as the console's markup, and a closing one ended the command with a traceback."""
    notes = ("the first prompt of task [/x]\x1b[2J has 9 tokens",)
    training = load([TINY / "training.yaml"], resolve=False).trainings[0]
    plan = SimpleNamespace(training=training, model_notes=notes, summary=())
    monkeypatch.setattr("toolorchestra.cli.running.new_plan", lambda *_, **__: plan)
    said = orchestra("train", "-f", written(tmp_path, TRAINING), "--check").output
    assert r"model: the first prompt of task [/x]\x1b[2J has 9 tokens" in said


def test_what_resources_say_of_each_other_is_checked(tmp_path: Path) -> None:
    path = written(tmp_path, TRAINING.replace("[small, large]", "[small, larg]"))
    said = orchestra("train", "-f", path, "--simulator", SKILLS, status=2).stderr
    assert "spec.tools.experts.names[1]: no ExpertPool named larg" in said
    assert "did you mean large?" in said


def test_a_telemetry_variable_that_cannot_be_obeyed_is_said_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "promethous")
    said = orchestra("train", "-f", written(tmp_path, TRAINING), "--simulator", SKILLS, status=2).stderr
    assert said.startswith("error: OTEL_METRICS_EXPORTER='promethous': want none, otlp, console, prometheus")
    assert not Path("runs").exists()


def test_what_this_machine_lacks_is_said_at_once(tmp_path: Path) -> None:
    said = orchestra("train", "-f", written(tmp_path, TRAINING), status=2).stderr.splitlines()
    assert len(said) == 3
    assert "--volume models=DIR" in said[0]
    assert all("--simulator skills.yaml" in line for line in said[1:])


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], "no training given: orchestra train -f"),
        (["-f", "absent.yaml"], "absent.yaml: no such file"),
        (["-f", "torn.yaml"], "torn.yaml:2: not YAML"),
        (["-f", "bytes.yaml"], "bytes.yaml: cannot be read"),
        (["-f", "."], "cannot be read"),
        (["-f", "good.yaml", "--volume", "models"], "--volume models: write CLAIM=DIR"),
        (["-f", "good.yaml", "--volume", "models=absent"], "write CLAIM=DIR, where DIR is a folder that exists"),
        (["-f", "good.yaml", "--name", "tinny"], "no OrchestratorTraining named tinny"),
        (["-f", "good.yaml", "--simulator", "good.yaml"], "has 0 resources of kind SkillTable"),
        (["-f", "good.yaml", "--simulator", "absent.yaml"], "absent.yaml: no such file"),
    ],
)
def test_bad_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], wanted: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text(TRAINING)
    Path("torn.yaml").write_text("kind: [OrchestratorTraining\n")
    Path("bytes.yaml").write_bytes(b"\xff\xfe\x00")
    assert wanted in orchestra("train", *arguments, status=2).stderr
    assert not Path("runs").exists()


def test_resume_checks_the_files_that_the_run_was_started_with(tmp_path: Path) -> None:
    path = written(tmp_path, TRAINING.replace("groupSize: 2", "groupSize: 1"))
    run = make_run(tmp_path, state="Cancelled")
    started_with(run, [path])
    assert "spec.algorithm.groupSize" in orchestra("resume", run.root, status=2).stderr
    path.unlink()
    assert "no such file" in orchestra("resume", run.root, status=2).stderr
    assert "no such file" in orchestra("train", "--resume", run.root, status=2).stderr


def test_resume_finds_relative_files_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They count from where the run was started; the plan's first problem says where it looked."""
    path = written(tmp_path, TRAINING.replace("pvc://models/tiny", "file://base/tiny"))
    run = make_run(tmp_path, state="Cancelled")
    started_with(run, [path], folder=str(tmp_path))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert f"{tmp_path}/base/tiny: no config.json there" in orchestra("resume", run.root, status=2).stderr


@pytest.mark.parametrize("files", ["there", "gone", "broken"])
def test_a_complete_run_is_left_as_it_is(tmp_path: Path, files: str) -> None:
    path = written(tmp_path, TRAINING if files == "there" else TRAINING.replace("groupSize: 2", "groupSize: 1"))
    run = make_run(tmp_path, state="Complete", steps=load(TINY / "training.yaml").trainings[0].spec.algorithm.steps)
    started_with(run, [path])
    if files == "gone":
        path.unlink()
    before = run.read_status()
    said = orchestra("resume", run.root).output.splitlines()
    assert said == ["demo-1 is complete: nothing was started", f"write the report with: orchestra report {run.root}"]
    (run.root / "report.html").write_text("")
    assert f"report: {run.root / 'report.html'}" in orchestra("train", "--resume", run.root).output
    assert run.read_status() == before
    assert not (run.root / "supervisor.lock").exists()


def test_a_complete_run_whose_files_want_more_steps_goes_on(tmp_path: Path) -> None:
    """It is planned; here it ends with the plan's first problem, that nobody says where the model lies."""
    run = make_run(tmp_path, state="Complete", steps=1)
    started_with(run, [written(tmp_path, TRAINING)])
    assert "--volume models=DIR" in orchestra("resume", run.root, status=2).stderr


def started_with(run: RunDir, inputs: list[Path], **more: str) -> None:
    options = {"inputs": [str(path) for path in inputs], "simulator": str(SKILLS), "volumes": {}, "timeScale": 0.0}
    options |= more
    run.manifest.write_text(json.dumps({"name": "tiny", "seed": 0, "options": options}))


def test_check_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = "- {name: mine, type: JSONL, jsonl: {uri: pvc://models/tasks.jsonl}}"
    text = re.sub(r"- \{name: sums.*\}", tasks, TRAINING)
    model_folder(tmp_path / "tiny")
    grader = {"type": "ExactMatch", "data": {"answer": "1"}}
    rows = [{"id": f"t{i}", "instruction": f"{i}?", "grader": grader} for i in range(100)]
    (tmp_path / "tasks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    arguments = ["-f", written(tmp_path, text), "--simulator", SKILLS, "--volume", f"models={tmp_path}", "--check"]
    assert orchestra("train", *arguments).output.endswith("\ntiny: could run here\n")
    assert sorted(os.listdir(tmp_path)) == ["tasks.jsonl", "tiny", "training.yaml"]

    with (tmp_path / "tasks.jsonl").open("a") as file:
        file.write('{"id": "t100"}\nnonsense\n')
    said = orchestra("train", *arguments, status=2).stderr
    assert re.search(r"tasks\.jsonl.*101", said)
    assert re.search(r"tasks\.jsonl.*102", said)


def test_a_run_that_goes_on_cannot_change_its_device(tmp_path: Path) -> None:
    done = orchestra("train", "--resume", make_run(tmp_path).root, "--device", "cpu", status=2)
    assert "a run continues on the device that it was started on" in done.stderr
