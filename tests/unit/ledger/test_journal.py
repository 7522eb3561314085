"""What the journal keeps when bits flip, disks fill and power goes: what was acknowledged, or an error that says so."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from toolorchestra.ledger.history import account, read_history, recover
from toolorchestra.ledger.journal import (
    Journal,
    JournalError,
    Kind,
    read_frame,
    read_frames,
    read_sealed,
    read_synced,
    synced_path,
    write_sealed,
)
from toolorchestra.ledger.resume import load_history
from toolorchestra.rollout.codec import decode_trace
from toolorchestra.weights.checkpoint import CheckpointStore

OLD_RUN = Path(__file__).parents[2] / "fixtures" / "runs" / "before-frame-versions"


def bodies(path: Path, **how: Any) -> list[bytes]:
    return [frame.body for frame in read_frames(path, **how)]


def written(path: Path, *batches: list[bytes], loose: list[bytes] | None = None) -> int:
    """Batches that were flushed, then frames that reached the file and were not; the acknowledged offset."""
    journal = Journal(path)
    for batch in batches:
        for body in batch:
            journal.append(Kind.UNSCORED, {"issue": "u.0.0.0.0", "usd": "0"}, body)
        journal.flush()
    synced = journal.synced
    for body in loose or []:
        journal.append(Kind.ACCEPTED, {"issue": "u.0.0.0.0", "usd": "0"}, body)
    journal._write()
    return synced


def test_frames_come_back_as_they_were_and_by_their_offset(tmp_path: Path) -> None:
    path = tmp_path / "journal.bin"
    written(path, [b"one\ntwo", b""], [b"three"])
    frames = list(read_frames(path))
    assert [f.body for f in frames] == [b"one\ntwo", b"", b"three"]
    assert [read_frame(path, f.start) for f in frames] == frames
    assert [f.end for f in frames] == [*[f.start for f in frames[1:]], path.stat().st_size]
    assert bodies(path, start=frames[1].start) == [b"", b"three"]
    heads = list(read_frames(path, bodies=False))
    assert [(f.head, f.start, f.end, f.body) for f in heads] == [(f.head, f.start, f.end, b"") for f in frames]


def test_a_flipped_bit_in_what_was_acknowledged_is_damage_wherever_it_is(tmp_path: Path) -> None:
    path = tmp_path / "journal.bin"
    written(path, [b"one"], [b"two"])
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises(JournalError, match=r"damaged|version"):
            list(read_frames(path))
        with pytest.raises(JournalError):
            Journal(path, end=list(read_frames(path))[-1].end)
    assert path.stat().st_size == len(whole), "and nothing was cut off"


def test_acknowledged_bytes_that_are_missing_are_damage(tmp_path: Path) -> None:
    path = tmp_path / "journal.bin"
    synced = written(path, [b"one"], [b"two"])
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with pytest.raises(JournalError, match=rf"damaged|ends at byte \d+, but {synced} bytes had been acknowledged"):
            list(read_frames(path))
        with pytest.raises(JournalError):
            Journal(path)
    path.unlink()
    with pytest.raises(JournalError, match="ends at byte 0"):
        list(read_frames(path))


@pytest.mark.parametrize("flip", [None, 0, 9, 13, 20, 40, -1])
def test_what_was_acknowledged_to_nobody_is_cut_off_cleanly(tmp_path: Path, flip: int | None) -> None:
    """Torn, zero-filled, or with a hole in the middle of its batch: whatever a power cut left of it."""
    path = tmp_path / "journal.bin"
    synced = written(path, [b"one"], loose=[b"two", b"three"])
    whole = path.read_bytes()
    first = len(whole) - len(list(read_frames(path, start=synced))[1:][0].body)
    spoilt = [whole[:size] for size in range(synced, len(whole))]
    spoilt += [whole[:size] + b"\0" * n for size in (synced, synced + 10, first) for n in (1, 8, 28, 4096)]
    if flip is not None:
        at = synced + flip if flip >= 0 else len(whole) - 1
        spoilt = [whole[:at] + b"\0" + whole[at + 1 :] if whole[at] else whole[:at] + b"\1" + whole[at + 1 :]]
    for content in spoilt:
        path.write_bytes(content)
        found = bodies(path)
        assert found in ([b"one"], [b"one", b"two"])
        again = Journal(path)
        again.append(Kind.ACCEPTED, {"issue": "u.0.0.0.0", "usd": "0"}, b"four")
        again.close()
        assert bodies(path) == [*found, b"four"]
        path.unlink()
        synced_path(path).unlink()
        written(path, [b"one"], loose=[b"two", b"three"])


def test_never_a_cut_below_the_checkpoints_offset(tmp_path: Path) -> None:
    """A copy that lost its `synced`: what follows, and what the checkpoint knows, say what was acknowledged."""
    path = tmp_path / "journal.bin"
    written(path, [b"one"], [b"two"])
    synced_path(path).unlink()
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert bodies(path) == [b"one"], "a torn end"
    with pytest.raises(JournalError, match="damaged"):
        list(read_frames(path, floor=len(whole)))
    with pytest.raises(JournalError, match="damaged"):
        load_history(path, step=0, job={"journal_offset": len(whole)})
    for at in range(len(whole) - next(read_frames(path)).end):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 128]) + whole[at + 1 :])
        with pytest.raises(JournalError, match=r"damaged|version"):
            list(read_frames(path))


@settings(deadline=None, max_examples=100)
@given(
    batches=st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=3), max_size=3),
    loose=st.lists(st.binary(max_size=40), max_size=4),
    data=st.data(),
)
def test_a_power_cut_takes_nothing_that_was_acknowledged(
    batches: list[list[bytes]], loose: list[bytes], data: st.DataObject
) -> None:
    """Above the synced offset any byte may have become zero, and any tail may be missing."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "journal.bin"
        synced = written(path, *batches, loose=loose)
        content = bytearray(path.read_bytes())
        for begin in data.draw(st.lists(st.integers(synced, len(content)), max_size=2), label="holes"):
            content[begin : begin + 16] = bytes(len(content[begin : begin + 16]))
        path.write_bytes(content[: data.draw(st.integers(synced, len(content)), label="size")])
        found, kept = bodies(path), [body for batch in batches for body in batch]
        assert found == [*kept, *loose][: len(found)]
        assert len(found) >= len(kept)
        assert read_synced(path) == synced
        Journal(path).close()
        assert bodies(path) == found


def test_a_sealed_file_is_whole_or_damaged(tmp_path: Path) -> None:
    path = tmp_path / "policy.traces"
    write_sealed(path, [(Kind.ACCEPTED, {"issue": "u.0.0.0.0", "usd": "0"}, body) for body in (b"one", b"two")])
    assert [frame.body for frame in read_sealed(path)] == [b"one", b"two"]
    assert [each.name for each in tmp_path.iterdir()] == ["policy.traces"]
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    with pytest.raises(JournalError, match="wrong checksum of its body"):
        list(read_sealed(path))


# ── a disk that is full ────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """The kernel refuses to let a file grow further, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_said_and_nothing_after_it_seems_to_work(tmp_path: Path) -> None:
    path = tmp_path / "journal.bin"
    journal = Journal(path)
    journal.append(Kind.ACCEPTED, {"issue": "u.0.0.0.0", "usd": "0"}, b"one")
    journal.flush()
    synced = journal.synced
    journal.append(Kind.ACCEPTED, {"issue": "u.0.1.0.0", "usd": "0"}, b"two" * 1000)
    with no_file_above(synced + 100), pytest.raises(JournalError, match=r"cannot be written \(.*\); free some space"):
        journal.flush()
    for again in (journal.flush, lambda: journal.append(Kind.NOTE, {"note": "x"}, b"x" * (1 << 20))):
        with pytest.raises(JournalError, match="cannot be written"):
            again()
    assert (journal.synced, read_synced(path)) == (synced, synced)
    journal.close()
    assert bodies(path) == [b"one"]
    again_open = Journal(path)
    again_open.note("incarnation", incarnation=1, step=0)
    again_open.close()
    assert [f.kind for f in read_frames(path)] == [Kind.ACCEPTED, Kind.NOTE]


# ── frames of before they had a version, and of releases to come ───────────────────────────────────────────────────


def old_frame(head: dict[str, Any], body: bytes = b"") -> bytes:
    payload = b"J" + json.dumps(head).encode() + b"\n" + body
    return struct.pack("<II", len(payload), zlib.crc32(payload)) + payload


def test_a_run_of_before_goes_on_where_it_was(tmp_path: Path) -> None:
    root = tmp_path / "run"
    shutil.copytree(OLD_RUN, root)
    path, expected = root / "journal" / "journal.bin", json.loads((root / "expected.json").read_text())
    checkpoint = CheckpointStore(root / "checkpoints").latest()
    assert checkpoint is not None
    history = load_history(path, step=checkpoint.step, job=checkpoint.job)
    found = account(history)
    assert {name: getattr(found, name) for name in expected["account"]} == expected["account"]
    assert (str(history.spent), sorted(history.recorded)) == (expected["spent"], expected["recorded"])
    recovery = recover(history, step=checkpoint.step)
    restore = {str(number): [str(a.issue) for a in results] for number, results in recovery.restore.items()}
    assert restore == expected["recovery"]["restore"]
    assert [str(dispatch) for dispatch in recovery.set_aside] == expected["recovery"]["set_aside"]
    for accepted in (a for results in recovery.restore.values() for a in results):
        assert decode_trace(read_frame(path, accepted.at).body).issue == str(accepted.issue)
    before = path.read_bytes()
    journal = Journal(path, end=history.end)
    journal.note("incarnation", incarnation=recovery.incarnation, step=checkpoint.step)
    journal.close()
    assert path.read_bytes().startswith(before), "what was there is kept as it was"
    assert read_history(read_frames(path)).incarnations[-1] == (recovery.incarnation, checkpoint.step)


@pytest.mark.parametrize("at", [0, 3, 6, 20])
def test_damage_in_a_journal_of_before_is_not_taken_for_its_end(tmp_path: Path, at: int) -> None:
    path = tmp_path / "journal.bin"
    content = bytearray(old_frame({"note": "a"}) + old_frame({"note": "b"}))
    content[at] ^= 64
    path.write_bytes(content)
    with pytest.raises(JournalError, match="byte 0 is damaged"):
        list(read_frames(path))


def test_a_torn_or_zero_filled_end_of_before_is_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "journal.bin"
    whole = old_frame({"note": "a"}) + old_frame({"note": "b"})
    for content in (whole[:-1], whole[:-20], old_frame({"note": "a"}) + b"\0" * 500):
        path.write_bytes(content)
        assert [f.head["note"] for f in read_frames(path)] == ["a"]


def test_the_code_of_before_calls_a_new_journal_damaged_and_does_not_cut_it(tmp_path: Path) -> None:
    path = tmp_path / "journal.bin"
    written(path, [b"one", b"two"])
    content = path.read_bytes()
    length, checksum = struct.unpack_from("<II", content)
    payload = content[8 : 8 + length]
    assert len(payload) == length, "else it is a torn end to it, and is cut off"
    assert zlib.crc32(payload) != checksum
    assert 8 + length < len(content)


def test_a_frame_of_a_later_release_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "journal.bin"
    synced = written(path, [b"one"])
    content = bytearray(path.read_bytes() * 2)
    content[synced + 7] = 2
    path.write_bytes(content)
    with pytest.raises(JournalError, match=rf"byte {synced} has version 2; this release reads 0 and 1"):
        list(read_frames(path))


def test_what_was_appended_is_on_disk_before_the_mark_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mark that is ahead of the disk would make a power cut look like damage."""
    order: list[str] = []
    fsync, pwrite = os.fsync, os.pwrite

    def noted_fsync(handle: int) -> None:
        order.append("fsync")
        fsync(handle)

    def noted_pwrite(handle: int, data: bytes, offset: int) -> int:
        order.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        return pwrite(handle, data, offset)

    path = tmp_path / "journal.bin"
    with contextlib.closing(Journal(path)) as journal:
        monkeypatch.setattr(os, "fsync", noted_fsync)
        monkeypatch.setattr(os, "pwrite", noted_pwrite)
        journal.note("started")
        journal.flush()
    assert order == [path.name, "fsync", synced_path(path).name]
