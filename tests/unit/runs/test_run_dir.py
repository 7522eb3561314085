"""The run's folder is what its description says."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.run_rig import make_run, orchestra
from toolorchestra.cli.runs import overview
from toolorchestra.runs import run_dir
from toolorchestra.runs.run_dir import RunDir, Unreadable, read_jsonl
from toolorchestra.weights.checkpoint import BEST, CheckpointStore


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


NUMBERS = st.none() | st.integers() | st.floats()
ROWS = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("accuracy", "reward_mean", "nominal_usd_per_task", "spent_usd", "entropy"), NUMBERS)
    | {"step": st.integers(0, 9), "message": st.text(max_size=5), "seconds": st.dictionaries(st.text(), NUMBERS)},
)


@given(before=st.lists(ROWS, max_size=3), torn=ROWS, after=st.lists(ROWS, max_size=3), data=st.data())
def test_a_torn_line_costs_itself_and_nothing_else(
    before: list[dict[str, Any]], torn: dict[str, Any], after: list[dict[str, Any]], data: st.DataObject
) -> None:
    """Whatever rows there are, wherever a kill cut the last one, and whatever a power cut left in its place."""
    with TemporaryDirectory() as folder:
        run = RunDir(Path(folder))
        for row in before:
            run.metric(row)
        size = run.metrics.stat().st_size if before else 0
        run.metric(torn)
        content = run.metrics.read_bytes()
        kept = data.draw(st.integers(size, len(content) - 1), label="bytes that reached the disk")
        zeros = data.draw(st.integers(0, len(content) - kept), label="zeros in place of the rest")
        run.metrics.write_bytes(content[:kept] + b"\0" * zeros)
        for row in after:
            run.metric(row)
        found = list(read_jsonl(run.metrics))
        whole = kept == len(content) - 1 and not zeros and after
        assert repr(found) == repr([*before, *([torn] if whole else []), *after])
        run.manifest.write_text("{}")
        assert overview(run)["status"] == "Starting"


def test_a_torn_line_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = RunDir(tmp_path)
    run.event("one", "1")
    with run.events.open("a") as file:
        file.write('{"event": "tw')
    assert [row["event"] for row in read_jsonl(run.events)] == ["one"]
    assert "events.jsonl: skipped 1 incomplete lines" in caplog.text
    run.event("three", "3")
    assert [row["event"] for row in read_jsonl(run.events)] == ["one", "three"]


@pytest.mark.parametrize("content", ["", '{"state": "Run', "[]", "\0\0\0"])
@pytest.mark.parametrize("name", ["status", "manifest"])
def test_a_file_written_halfway_is_named_with_what_to_do(tmp_path: Path, name: str, content: str) -> None:
    run = make_run(tmp_path, state="Paused")
    getattr(run, name).write_text(content)
    with pytest.raises(Unreadable, match=rf"{name}\.json: not a complete JSON object .*(remove it|restore it)"):
        getattr(run, f"read_{name}")()
    done = orchestra({"status": "status", "manifest": "report"}[name], run.root, status=2)
    assert f"{name}.json: not a complete JSON object" in done.output
    assert overview(run)["status"] == "Unreadable"
