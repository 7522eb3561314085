from __future__ import annotations

import json
from pathlib import Path

import pytest

from toolorchestra.weights.checkpoint import MANIFEST, CheckpointError, CheckpointStore, verify_checkpoint


def write(store: CheckpointStore, step: int, content: str = "weights") -> None:
    folder = store.begin(step)
    (folder / "state").mkdir()
    (folder / "state" / "a.bin").write_text(f"{content} {step}")
    (folder / "rng.bin").write_text("rng")
    store.commit(step, job={"journal_offset": step * 10})


def test_what_was_committed_is_read_back(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    assert store.latest() is None
    write(store, 1)
    write(store, 2)
    latest = store.latest()
    assert latest is not None
    assert (latest.step, latest.job) == (2, {"journal_offset": 20})
    assert latest.path.is_dir()
    assert len(latest.digest) == 64


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "manifest", "no manifest"])
def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    store = CheckpointStore(tmp_path)
    write(store, 1)
    write(store, 2)
    victim = store.folder(2) / "state" / "a.bin"
    match damage:
        case "flip":
            victim.write_text("wEights 2")
        case "truncate":
            victim.write_text("wei")
        case "remove":
            victim.unlink()
        case "manifest":
            (store.folder(2) / MANIFEST).write_text("{")
        case "no manifest":
            (store.folder(2) / MANIFEST).unlink()
    with pytest.raises(CheckpointError):
        verify_checkpoint(store.folder(2))
    latest = store.latest()
    assert latest is not None
    assert latest.step == 1
    assert "step 2 is skipped" in caplog.text
    write(store, 2, "again")
    latest = store.latest()
    assert latest is not None
    assert latest.step == 2


def test_a_write_that_broke_off_is_invisible(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    write(store, 1)
    (store.begin(2) / "a.bin").write_text("half")
    assert store.steps() == [1]
    assert (store.begin(2) / "a.bin").exists() is False
    with pytest.raises(CheckpointError, match="nothing was written"):
        store.commit(2, job={})


def test_keep_prunes_but_never_the_best(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    write(store, 1)
    store.mark_best(1)
    for step in range(2, 6):
        write(store, step)
    assert store.steps() == [1, 4, 5]
    assert (store.best_step(), store.best_score()) == (1, None)
    store.mark_best(5, score={"reward": 0.5})
    assert (store.best_step(), store.best_score()) == (5, {"reward": 0.5})
    write(store, 6)
    assert store.steps() == [5, 6]


def test_the_last_good_one_outlives_damaged_newer_ones(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=3)
    for step in (1, 2, 3):
        write(store, step)
    for step in (2, 3):
        (store.folder(step) / "rng.bin").unlink()
    tight = CheckpointStore(tmp_path, keep=2)
    tight.prune()
    assert tight.steps() == [1, 2, 3]
    latest = tight.latest()
    assert latest is not None
    assert latest.step == 1


def test_a_damaged_checkpoint_cannot_become_the_best(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    write(store, 1)
    (store.folder(1) / "rng.bin").unlink()
    with pytest.raises(CheckpointError, match=r"rng\.bin is missing"):
        store.mark_best(1)


def test_another_schema_is_refused(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    write(store, 1)
    path = store.folder(1) / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": 99}))
    with pytest.raises(CheckpointError, match="schema 99"):
        verify_checkpoint(store.folder(1))
