"""A real chat model from its download to its bars: SmolLM2-135M-Instruct, which has never been shown a tool call.

The quick start's files, with a warm start and without one. `make test-long`; minutes on two cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from support.real_run import RealRun
from toolorchestra.contract.exit_status import EXIT_CODES
from toolorchestra.evaluation.archive import traces_in
from toolorchestra.rollout.trace import Trace
from toolorchestra.runs.run_dir import read_jsonl

ROOT = Path(__file__).parents[2]
FILES = ROOT / "examples" / "real-model"
MODEL = ROOT / ".cache" / "real-model" / "smollm2-135m-instruct"
MINUTES = 60
"""Long after the 20 that it may take on two cores of its own: tests share theirs."""

pytestmark = [pytest.mark.long, pytest.mark.real, pytest.mark.timeout(60 * (MINUTES + 5))]


@pytest.fixture(scope="module", autouse=True)
def model() -> None:
    subprocess.run([sys.executable, str(FILES / "get_model.py"), str(MODEL)], check=True, cwd=ROOT)


def trained(folder: Path, *, state: str, warm: bool) -> RealRun:
    """The example's training, run to its end, which is to be `state`."""
    training, *pools = yaml.safe_load_all((FILES / "training.yaml").read_text(encoding="utf-8"))
    spec = training["spec"]
    spec["model"]["uri"] = f"file://{MODEL}"
    spec["tasks"]["sources"][0]["jsonl"]["uri"] = f"file://{FILES / 'tasks.jsonl'}"
    if not warm:
        del spec["warmStart"]
    files = folder / "training.yaml"
    files.write_text(yaml.safe_dump_all([training, *pools]), encoding="utf-8")
    run = RealRun(folder, patience=60.0 * MINUTES, environment={"HF_HUB_OFFLINE": "1", "COLUMNS": "200"})
    arguments = ["--simulator", str(FILES / "skills.yaml"), "--runs", str(folder / "runs")]
    run.start("train", "-f", str(files), *arguments)
    assert run.process.wait(run.patience) == EXIT_CODES[state], run.words()[-3000:]  # type: ignore[index]
    assert "model: its chat template renders no tools: they go into the system message" in run.words()
    return run


def evaluated(run: RealRun, system: str) -> list[Trace]:
    return list(traces_in(run.dir.evaluations / "held-out" / f"{system}.traces"))


def accuracy(traces: list[Trace]) -> float:
    return sum(trace.components.outcome or 0.0 for trace in traces) / len(traces)


def valid(traces: list[Trace]) -> float:
    outputs = [turn.rejection is None for trace in traces for turn in trace.turns]
    return sum(outputs) / len(outputs)


def test_with_a_warm_start_it_calls_and_beats_the_cheapest_expert(tmp_path: Path) -> None:
    run = trained(tmp_path, state="Complete", warm=True)
    policy, cheapest = evaluated(run, "policy"), evaluated(run, "always:small")
    print(f"valid {valid(policy):.3f}, accuracy {accuracy(policy):.3f}, the cheapest expert's {accuracy(cheapest):.3f}")
    assert valid(policy) >= 0.9
    assert accuracy(policy) > accuracy(cheapest)
    rows = [row for row in read_jsonl(run.dir.metrics) if "step" in row]
    assert all(0 <= row["trainer_idle_fraction"] <= 1 for row in rows)
    assert any(row["samples"] for row in rows)
    assert os.listdir(run.dir.export / "last")


def test_without_one_it_pauses_and_says_what_to_do(tmp_path: Path) -> None:
    run = trained(tmp_path, state="Paused", warm=False)
    assert run.dir.read_status()["reason"] in ("OutputsUnreadable", "NothingLearned")
    for words in ("nothing to train on", "warm", "--prompt", "docs/your-model.md"):
        assert words in run.words()
    assert "Traceback" not in run.words()
