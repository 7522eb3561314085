"""Control client and process life cycle against a scripted stand-in for vLLM; the real one is in test_real_engine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from toolorchestra.engines import server as engine_server
from toolorchestra.engines.arguments import EngineConfig
from toolorchestra.engines.control import (
    EngineControl,
    EngineRefused,
    EngineUnreachable,
    Timeouts,
    UpdateFailed,
)
from toolorchestra.engines.middleware import SECRET_HEADER
from toolorchestra.engines.server import EngineDied, EngineNotReady, EngineServer, PortTaken
from toolorchestra.engines.startup import Patience
from toolorchestra.weights.snapshot import Snapshot, SnapshotError, folder_keys
from toolorchestra.weights.writer import write_snapshot


class ScriptedEngine(ThreadingHTTPServer):
    """Answers the control routes as vLLM does, and fails where it is told to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.calls: list[str] = []
        self.fail: dict[str, int] = {}
        self.hang: set[str] = set()
        self.paused, self.updating, self.version = False, False, "default"
        self.lie: str | None = None
        self.release = threading.Event()

    def act(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        match path:
            case "/pause?mode=keep&clear_cache=true":
                self.paused = True
            case "/resume":
                self.paused = False
            case "/is_paused":
                return 200, {"is_paused": self.paused}
            case "/weight_info":
                return 200, {"weight_version": self.lie or self.version}
            case "/start_weight_update":
                if self.updating:
                    return 500, {"error": "already active"}
                self.updating = True
            case "/finish_weight_update":
                self.updating = False
                self.version = body["weight_version"] or self.version
            case "/update_weights":
                assert {"path", "version", "digest", "mark"} == body["update_info"].keys()
            case _:
                return 404, {}
        return 200, {"ok": True}


class _Handler(BaseHTTPRequestHandler):
    server: ScriptedEngine

    def _answer(self) -> None:
        engine = self.server
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
        name = self.path.partition("?")[0]
        engine.calls.append(name)
        assert self.headers[SECRET_HEADER] == "secret"
        if name in engine.hang:
            engine.release.wait(20)
        status, answer = (
            (engine.fail[name], {"error": "told to"}) if name in engine.fail else engine.act(self.path, body)
        )
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = _answer

    def log_message(self, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def engine() -> Iterator[ScriptedEngine]:
    server = ScriptedEngine()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.release.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def control(engine: ScriptedEngine, tiny: Path) -> EngineControl:
    limits = Timeouts(call=2.0, pause=2.0, update=2.0)
    return EngineControl(
        host="127.0.0.1", port=engine.server_address[1], secret="secret", model_dir=str(tiny), timeouts=limits
    )


@pytest.fixture
def snapshot(tiny: Path, tmp_path: Path) -> Snapshot:
    keys = folder_keys(tiny)
    tensors = ((name, torch.zeros(shape)) for name, shape in keys.items())
    return write_snapshot(tmp_path / "0-3", tensors, version="0-3", keys=keys, dtype=torch.float32)


ORDER = ["/pause", "/start_weight_update", "/update_weights", "/finish_weight_update", "/weight_info", "/resume"]


def test_an_update_is_the_protocol_in_order(engine: ScriptedEngine, control: EngineControl, snapshot: Snapshot) -> None:
    control.update(snapshot)
    assert engine.calls == ORDER
    assert not engine.paused
    assert control.version() == "0-3"


@pytest.mark.parametrize("step", ORDER[1:5])
def test_a_failure_after_the_pause_leaves_the_engine_paused(
    engine: ScriptedEngine, control: EngineControl, snapshot: Snapshot, step: str
) -> None:
    engine.fail[step] = 500
    with pytest.raises(UpdateFailed, match="stays paused"):
        control.update(snapshot)
    assert engine.paused
    assert "/resume" not in engine.calls
    engine.fail.clear()
    assert control.recover(snapshot)
    assert not engine.paused
    assert control.version() == "0-3"
    assert not control.recover(snapshot)


def test_an_engine_that_claims_another_version_stays_paused(
    engine: ScriptedEngine, control: EngineControl, snapshot: Snapshot
) -> None:
    engine.lie = "0-2"
    with pytest.raises(UpdateFailed, match="serves 0-2"):
        control.update(snapshot)
    assert engine.paused


@pytest.mark.parametrize("step", ["/pause", "/update_weights"])
def test_an_engine_that_hangs_is_an_error_within_the_time_out(
    engine: ScriptedEngine, control: EngineControl, snapshot: Snapshot, step: str
) -> None:
    engine.hang.add(step)
    start = time.monotonic()
    with pytest.raises((EngineUnreachable, UpdateFailed), match=f"{step} at 127.*no answer within 2 s"):
        control.update(snapshot)
    assert time.monotonic() - start < 10


def test_a_bad_snapshot_never_reaches_the_engine(
    engine: ScriptedEngine, control: EngineControl, snapshot: Snapshot
) -> None:
    """One that was damaged on its way from another machine, and one that was cut short on this one."""
    content = snapshot.file.read_bytes()
    snapshot.file.write_bytes(content[:-1] + b"x")
    with pytest.raises(SnapshotError, match="has digest"):
        control.update(replace(snapshot, mark="another host's"))
    snapshot.file.write_bytes(content[:-1])
    with pytest.raises(SnapshotError, match="not a whole"):
        control.update(snapshot)
    assert engine.calls == []


def test_statuses_and_refused_connections_are_told_apart(engine: ScriptedEngine, control: EngineControl) -> None:
    engine.fail["/resume"] = 503
    with pytest.raises(EngineRefused, match="answered 503") as refused:
        control.resume()
    assert refused.value.status == 503
    gone = EngineControl(host="127.0.0.1", port=1, secret="", model_dir="")
    with pytest.raises(EngineUnreachable):
        gone.resume()
    assert not gone.healthy()


# -- the process ------------------------------------------------------------------------------------------------


def scripted_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str) -> EngineServer:
    monkeypatch.setattr(engine_server, "engine_arguments", lambda config, port, base: [sys.executable, "-c", code])
    return EngineServer(EngineConfig(model_dir="m"), log=tmp_path / "engine.log")


def test_a_process_that_dies_is_reported_with_its_last_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    server = scripted_server(monkeypatch, tmp_path, "print('no such model: m'); raise SystemExit(3)")
    with pytest.raises(EngineDied, match=r"status 3:\nno such model: m"):
        server.start(patience=Patience(total=30))
    assert not server.alive()


def test_a_process_that_never_answers_is_stopped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = "import signal, time; signal.signal(15, signal.SIG_IGN); print('loading', flush=True); time.sleep(60)"
    server = scripted_server(monkeypatch, tmp_path, code)
    with pytest.raises(EngineNotReady, match=r"within 1 s \(spec\.ray\.engines\.startTimeoutSeconds\)"):
        server.start(patience=Patience(total=1))
    assert not server.alive()
    with pytest.raises(EngineDied):
        server.check_answers(timeout=0.1)


def test_stopping_takes_the_children_along(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time;"
        "p = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']);"
        "print(p.pid, flush=True); time.sleep(60)"
    )
    server = scripted_server(monkeypatch, tmp_path, code)
    server.launch()
    while not server.log.read_text().endswith("\n"):
        server.check()
        time.sleep(0.01)
    child = int(server.log.read_text())
    server.stop()
    server.stop()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}/stat").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_taken_port_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, engine: ScriptedEngine) -> None:
    port = engine.server_address[1]
    server = EngineServer(EngineConfig(model_dir="m", port=port), log=tmp_path / "engine.log")
    with pytest.raises(PortTaken, match=str(port)):
        server.start()


PARENT = """
import sys, threading, time
from pathlib import Path
from toolorchestra.engines import server as engine_server
engine_server.engine_arguments = lambda config, port, base: [sys.executable, "-c", "import time; time.sleep(60)"]
server = engine_server.EngineServer(engine_server.EngineConfig(model_dir="m"), log=Path(sys.argv[1]))
starter = threading.Thread(target=server.launch)
starter.start()
starter.join()
time.sleep(0.3)
server.check()
print(server.pid, flush=True)
time.sleep(60)
"""


def test_the_engine_outlives_the_thread_that_started_it_but_not_the_process(tmp_path: Path) -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    line = parent.stdout.readline()
    assert line, "the engine died with the thread that started it"
    handle = os.pidfd_open(int(line))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    import select

    readable, _, _ = select.select([handle], [], [], 10)
    os.close(handle)
    assert readable, "the engine outlived its parent"
