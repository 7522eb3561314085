"""Where snapshots lie: in memory where there is room, for as long as the run lives, and nobody else's are touched."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.run_rig import make_run
from support.tiny_model import tiny_model
from toolorchestra.local.free_memory import free_memory
from toolorchestra.local.snapshot_folder import MARGIN, PREFIX, Room, snapshot_bytes, snapshot_folder, why_on_disk
from toolorchestra.runs.run_dir import RunDir

GB = 10**9


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return make_run(tmp_path)


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    folder = tmp_path / "shm"
    folder.mkdir()
    return folder


@pytest.mark.parametrize(
    ("room", "why"),
    [
        (Room(shared=6 * GB + MARGIN, memory=24 * GB), None),
        (Room(shared=6 * GB + MARGIN - 1, memory=24 * GB), "/dev/shm has 6.59 GiB free, .* may need 6.59 GiB"),
        (Room(shared=64 << 20, memory=500 * GB), "/dev/shm has 0.0625 GiB free"),
        (Room(shared=0, memory=0), "/dev/shm has 0 GiB free"),
        (Room(shared=500 * GB, memory=24 * GB - 1), "need 5.59 GiB of memory, more than a quarter of the 22.4 GiB"),
    ],
)
def test_two_snapshots_have_to_fit_and_leave_room(room: Room, why: str | None) -> None:
    found = why_on_disk(3 * GB, room)
    if why is None:
        assert found is None
    else:
        assert found is not None
        assert re.search(why, found)


def test_the_size_is_that_of_the_engines_dtype(model: Path) -> None:
    assert snapshot_bytes(model, device="cpu") == 2 * snapshot_bytes(model, device="cuda")
    weights = sum(file.stat().st_size for file in model.glob("*.safetensors"))
    assert weights - 10_000 < snapshot_bytes(model, device="cpu") < weights


def test_the_folder_is_the_owners_alone_and_goes_with_the_run(run: RunDir, model: Path, shared: Path) -> None:
    said: list[str] = []
    old = run.weights / "0-7"
    old.mkdir(parents=True)
    (old / "snapshot.json").touch()
    with snapshot_folder(run, uid="ab12", model=model, device="cpu", say=said.append, shared=shared) as folder:
        assert folder == shared / "toolorchestra-snapshots-ab12"
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "0-1").mkdir()
        with snapshot_folder(run, uid="cd34", model=model, device="cpu", say=said.append, shared=shared) as other:
            assert other != folder
            assert (folder / "0-1").is_dir(), "a run that lives keeps what it has"
        assert not old.exists()
    assert list(shared.iterdir()) == []
    assert said[0].startswith(f"snapshots of the weights are in memory: {folder}, ")


def test_without_room_they_lie_in_the_runs_folder(run: RunDir, model: Path, shared: Path) -> None:
    said: list[str] = []
    nowhere = shared / "none"
    with snapshot_folder(run, uid="ab12", model=model, device="cpu", say=said.append, shared=nowhere) as folder:
        assert folder == run.weights
    (shared / "toolorchestra-snapshots-ab12").symlink_to(run.root)  # somebody laid a trap, or has the name
    with snapshot_folder(run, uid="ab12", model=model, device="cpu", say=said.append, shared=shared) as folder:
        assert folder == run.weights
    with snapshot_folder(run, uid="x", model=run.root, device="cpu", say=said.append, shared=shared) as folder:
        assert folder == run.weights
    assert run.manifest.exists()
    assert all(line.startswith(f"snapshots of the weights are in {run.weights}: ") for line in said)
    assert "has 0 GiB free" in said[0]
    assert "File exists" in said[1]
    assert "holds no safetensors file" in said[2]


def test_a_folder_that_is_swept_while_it_is_claimed_is_not_used(
    run: RunDir, model: Path, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is locked another run's start may take it for a dead one's, and a third one make it anew."""
    lock = fcntl.flock

    def late(handle: int, operation: int) -> None:
        left = shared / f"{PREFIX}ab12"
        left.rmdir()
        left.mkdir()
        lock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    said: list[str] = []
    with snapshot_folder(run, uid="ab12", model=model, device="cpu", say=said.append, shared=shared) as folder:
        assert folder == run.weights
    assert "another process replaced" in said[0]
    assert (shared / f"{PREFIX}ab12").is_dir(), "it is somebody's"


HOLDER = """
import signal, sys
from pathlib import Path
from toolorchestra.local.snapshot_folder import snapshot_folder
from toolorchestra.runs.run_dir import RunDir

run, model, shared = map(Path, sys.argv[1:])
place = snapshot_folder(RunDir(run), uid="ab12", model=model, device="cpu", say=lambda line: None, shared=shared)
with place as folder:
    (folder / "0-1").mkdir()
    print(folder, flush=True)
    signal.pause()
"""


def test_what_a_killed_run_left_goes_with_the_next_start(run: RunDir, model: Path, shared: Path) -> None:
    argv = [sys.executable, "-c", HOLDER, str(run.root), str(model), str(shared)]
    holder = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    left = Path(holder.stdout.readline().strip())
    quiet: list[str] = []
    with snapshot_folder(run, uid="cd34", model=model, device="cpu", say=quiet.append, shared=shared):
        assert (left / "0-1").is_dir(), "its run lives"
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert left.is_dir()
    foreign = shared / "toolorchestra-snapshots-of-another-user"
    foreign.mkdir()
    os.chown(foreign, os.geteuid() + 1 if os.geteuid() == 0 else -1, -1)
    with snapshot_folder(run, uid="ab12", model=model, device="cpu", say=quiet.append, shared=shared) as folder:
        assert folder == left, "its own resume takes the name again"
        assert list(folder.iterdir()) == []
    assert foreign.exists() == (os.geteuid() == 0)


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({"memory.max": "4000", "memory.current": "3500", "memory.stat": "anon 9\ninactive_file 1500\n"}, 2000),
        ({"memory.max": "4000", "memory.current": "5500", "memory.stat": "inactive_file 0\n"}, 0),
        (
            {
                "memory/memory.limit_in_bytes": "9000",
                "memory/memory.usage_in_bytes": "1000",
                "memory/memory.stat": "total_inactive_file 0\n",
            },
            8000,
        ),
    ],
)
def test_a_containers_limit_counts(files: dict[str, str], free: int, tmp_path: Path) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert free_memory(tmp_path) == free


def test_without_a_limit_it_is_the_machines(tmp_path: Path) -> None:
    for name, text in {"memory.max": "max", "memory.current": "3500", "memory.stat": "inactive_file 0"}.items():
        (tmp_path / name).write_text(text)
    assert free_memory(tmp_path) > 1 << 20
    assert free_memory(tmp_path / "none") > 1 << 20
