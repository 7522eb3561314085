"""A model out of a volume: listed, streamed, verified, named; the pod that reads it; the exec API's frames."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import WSMsgType, web
from kubernetes.client import ApiClient, Configuration

from toolorchestra.cli.get_model import exported
from toolorchestra.cluster_client.errors import ClusterError, NotAuthorised, Unreachable
from toolorchestra.cluster_client.execute import CommandFailed, execute
from toolorchestra.cluster_client.fetch import Damaged, File, NoFolder, NoRoom, check_target, fetch, list_files
from toolorchestra.cluster_client.kube import Kube
from toolorchestra.cluster_client.reader import NoImage, image_of, manifest, reading

FILES = {"config.json": b"{}", "model.safetensors": bytes(range(256)) * 5000, "sub dir/tokenizer.json": b"x" * 10_240}
TRAINING: dict[str, Any] = {
    "apiVersion": "toolorchestra.dev/v1alpha1",
    "kind": "OrchestratorTraining",
    "metadata": {"name": "demo", "namespace": "team", "uid": "0b1d6a2e-6c1f", "generation": 1},
    "spec": {"storage": {"type": "EphemeralClaim"}},
}


def here(command: Sequence[str]) -> Iterator[bytes]:
    """What a pod would do, on this machine."""
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while data := process.stdout.read(1000):
            yield data
    if process.returncode:
        raise CommandFailed(f"{process.returncode}")


@pytest.fixture
def folder(tmp_path: Path) -> str:
    root = tmp_path / "volume" / "export"
    for name, data in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return str(root)


def left_overs(tmp_path: Path) -> list[str]:
    return [name for name in os.listdir(tmp_path) if name != "volume"]


def test_a_folder_arrives_whole(folder: str, tmp_path: Path) -> None:
    files = list_files(here, folder)
    assert {name: each.size for name, each in files.items()} == {name: len(data) for name, data in FILES.items()}
    came: list[int] = []
    fetch(here, folder, tmp_path / "model", files=files, progress=came.append)
    assert {name: (tmp_path / "model" / name).read_bytes() for name in FILES} == FILES
    assert sum(came) >= sum(map(len, FILES.values()))
    assert left_overs(tmp_path) == ["model"]


def changed(folder: str, change: Callable[[Path], object]) -> Callable[[Sequence[str]], Iterator[bytes]]:
    """Somebody changes the folder between the list and the copy."""

    def run(command: Sequence[str]) -> Iterator[bytes]:
        if "tar" in command[2]:
            change(Path(folder))
        yield from here(command)

    return run


def interrupted(command: Sequence[str]) -> Iterator[bytes]:
    if "tar" not in command[2]:
        yield from here(command)
        return
    yield next(here(command))
    raise KeyboardInterrupt


def broken(command: Sequence[str]) -> Iterator[bytes]:
    if "tar" not in command[2]:
        yield from here(command)
        return
    yield next(here(command))
    raise Unreachable("the connection broke off")


def not_an_archive(command: Sequence[str]) -> Iterator[bytes]:
    yield from here(command) if "tar" not in command[2] else iter([b"hello" * 1000])


def failing_at_the_end(command: Sequence[str]) -> Iterator[bytes]:
    yield from here(command)
    if "tar" in command[2]:
        raise CommandFailed("tar failed")


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda root: (root / "config.json").write_bytes(b"[]"), Damaged),
        (lambda root: (root / "config.json").write_bytes(b"{} "), Damaged),
        (lambda root: (root / "more.json").write_bytes(b""), Damaged),
        (lambda root: (root / "config.json").unlink(), Damaged),
        (lambda root: (root / "link").symlink_to("/etc/passwd"), Damaged),
    ],
)
def test_what_is_not_as_it_was_listed_is_not_taken(
    folder: str, tmp_path: Path, change: Callable[[Path], object], error: type[Exception]
) -> None:
    with pytest.raises(error):
        fetch(changed(folder, change), folder, tmp_path / "model", files=list_files(here, folder))
    assert left_overs(tmp_path) == []


@pytest.mark.parametrize(
    ("run", "error"),
    [
        (interrupted, KeyboardInterrupt),
        (broken, Unreachable),
        (not_an_archive, Damaged),
        (failing_at_the_end, CommandFailed),
    ],
)
def test_nothing_is_left_of_a_copy_that_ended_early(folder: str, tmp_path: Path, run: Any, error: type) -> None:
    with pytest.raises(error):
        fetch(run, folder, tmp_path / "model", files=list_files(here, folder))
    assert left_overs(tmp_path) == []


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(NoFolder, match="there is no folder"):
        list_files(here, str(tmp_path / "absent"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(NoFolder, match="is empty"):
        list_files(here, str(tmp_path / "empty"))


def test_a_name_that_leads_out_of_the_folder_is_not_taken() -> None:
    def listed(command: Sequence[str]) -> Iterator[bytes]:
        yield b"yes\n" if "echo" in command[2] else b"0" * 64 + b"  ./../x\n1 ./../x\n"

    with pytest.raises(Damaged, match="not copied"):
        list_files(listed, "/x")


def test_where_it_goes_must_be_free(tmp_path: Path) -> None:
    check_target(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    check_target(tmp_path / "empty")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "a").touch()
    for taken in ("full", "full/a"):
        with pytest.raises(NoRoom):
            check_target(tmp_path / taken)
    with pytest.raises(NoRoom, match="GiB free"):
        fetch(here, "/x", tmp_path / "absent", files={"a": File(2**60, "0" * 64)})


def test_an_empty_folder_becomes_the_model(folder: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    fetch(here, folder, tmp_path / "model", files=list_files(here, folder))
    assert (tmp_path / "model" / "config.json").read_bytes() == b"{}"


# ── the pod ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_where_the_model_is() -> None:
    assert exported(TRAINING, "best") == ("demo-storage", "demo-0b1d6a2e/export/best")
    done = {**TRAINING, "status": {"exportURI": "pvc://shared/a/demo-0b1d6a2e/export/last"}}
    assert exported(done, "last") == ("shared", "a/demo-0b1d6a2e/export/last")
    assert exported(done, "best") == ("shared", "a/demo-0b1d6a2e/export/best")


def test_the_image_is_what_is_given_or_the_trainings_own() -> None:
    template = {"containers": [{"image": "worker:1"}]}
    assert image_of(TRAINING, template, "mine") == "mine"
    assert image_of(TRAINING, template, None) == "worker:1"
    assert image_of({**TRAINING, "spec": {"ray": {"image": "own"}}}, {}, None) == "own"
    told = {"ray": {"provider": "KubeRay", "name": "tiny-1", "image": "ran"}}
    assert image_of({**TRAINING, "status": told, "spec": {"ray": {"image": "next"}}}, {}, None) == "ran"
    with pytest.raises(NoImage, match="--image"):
        image_of(TRAINING, {}, None)


def test_the_pod_may_read_the_volume_and_nothing_else() -> None:
    template = {"tolerations": [{"key": "gpu"}], "imagePullSecrets": [{"name": "r"}], "nodeSelector": {"a": "b"}}
    pod = manifest(TRAINING, claim="c", image="i", template=template)
    spec, [container] = pod["spec"], pod["spec"]["containers"]
    assert spec["automountServiceAccountToken"] is False
    assert spec["volumes"] == [{"name": "volume", "persistentVolumeClaim": {"claimName": "c", "readOnly": True}}]
    assert container["volumeMounts"][0]["readOnly"] is True
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert spec["activeDeadlineSeconds"] > 0
    assert (spec["tolerations"], spec["imagePullSecrets"]) == (template["tolerations"], template["imagePullSecrets"])
    assert "nodeSelector" not in spec
    assert "toolorchestra.dev/training" not in pod["metadata"]["labels"], "the operator counts those pods"
    assert pod["metadata"]["ownerReferences"][0]["uid"] == TRAINING["metadata"]["uid"]


class Pods:
    """Makes a pod, tells its states one after the other."""

    def __init__(self, *states: dict[str, Any] | None) -> None:
        self.states, self.deleted = list(states), list[str]()

    def create(self, _: Any, pod: dict[str, Any], *, namespace: str) -> dict[str, Any]:
        return {**pod, "metadata": {**pod["metadata"], "name": "demo-reader-x", "namespace": namespace, "uid": "u"}}

    def find(self, *_: Any, **__: Any) -> Any:
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return None if state is None else {"metadata": {"name": "demo-reader-x"}, "status": state}

    def delete(self, _: Any, name: str, **__: Any) -> bool:
        self.deleted.append(name)
        return True


WAITS = {"phase": "Pending"}
RUNS = {"phase": "Running", "containerStatuses": [{"name": "reader", "state": {"running": {}}}]}


@contextmanager
def read(pods: Pods, said: list[str]) -> Iterator[str]:
    pod = manifest(TRAINING, claim="c", image="i", template={})
    passed = iter(range(0, 100_000, 100))
    about: dict[str, Any] = {"say": said.append, "sleep": lambda _: None, "clock": lambda: next(passed)}
    with reading(pods, pod, **about) as name:  # type: ignore[arg-type]
        yield name


@pytest.mark.parametrize("ending", [None, KeyboardInterrupt, Unreachable])
def test_the_pod_is_deleted_whatever_the_end_is(ending: type[BaseException] | None) -> None:
    pods, said = Pods(WAITS, WAITS, RUNS), list[str]()

    def use() -> None:
        with read(pods, said) as name:
            assert (name, pods.deleted) == ("demo-reader-x", [])
            if ending is not None:
                raise ending

    if ending is None:
        use()
    else:
        with pytest.raises(ending):
            use()
    assert pods.deleted == ["demo-reader-x"]
    assert said == ["waiting for pod demo-reader-x: Pending"]


@pytest.mark.parametrize("state", [WAITS, {"phase": "Failed"}, None])
def test_a_pod_that_does_not_come_up_is_deleted_and_said(state: dict[str, Any] | None) -> None:
    pods = Pods(state)
    with pytest.raises(ClusterError, match=r"demo-reader-x (does not run|was deleted)"), read(pods, []):
        pytest.fail("it never ran")
    assert pods.deleted == ["demo-reader-x"]


# ── exec ───────────────────────────────────────────────────────────────────────────────────────────────────────────

Frames = list[tuple[int, bytes]]


@contextmanager
def api_server(handler: Callable[[web.Request], Any]) -> Iterator[Kube]:
    """An API server that knows one path, in a thread of its own."""
    loop, started = asyncio.new_event_loop(), threading.Event()
    port: list[int] = []

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/api/v1/namespaces/team/pods/p/exec", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port.append(runner.addresses[0][1])
        started.set()
        return runner

    def serve() -> None:
        runner = loop.run_until_complete(start())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())

    thread = threading.Thread(target=serve)
    thread.start()
    assert started.wait(10)
    configuration = Configuration()
    configuration.host = f"http://127.0.0.1:{port[0]}"
    configuration.api_key["BearerToken"] = "Bearer secret"
    try:
        yield Kube(ApiClient(configuration), "team", "test")
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def answering(frames: Frames, asked: list[web.Request], *, close: bool = True) -> Callable[[web.Request], Any]:
    async def handler(request: web.Request) -> web.WebSocketResponse:
        asked.append(request)
        socket = web.WebSocketResponse(protocols=("v5.channel.k8s.io", "v4.channel.k8s.io"))
        await socket.prepare(request)
        for channel, data in frames:
            await socket.send_bytes(bytes([channel]) + data)
        if close:
            await socket.close()
        else:
            assert (await socket.receive()).type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING)
        return socket

    return handler


SUCCESS = json.dumps({"status": "Success"}).encode()
FAILURE = json.dumps({"status": "Failure", "message": "command terminated with exit code 1"}).encode()


def ran(kube: Kube, **options: Any) -> bytes:
    return b"".join(execute(kube, "p", ["sh", "-c", "x y"], namespace="team", container="reader", **options))


def test_what_a_command_writes_is_what_comes() -> None:
    asked: list[web.Request] = []
    frames = [(1, b""), (1, b"\x00\xff one"), (2, b"note"), (1, b" two"), (3, SUCCESS)]
    with api_server(answering(frames, asked)) as kube:
        assert ran(kube) == b"\x00\xff one two"
    query = asked[0].query
    assert query.getall("command") == ["sh", "-c", "x y"]
    assert (query["container"], query["stdin"]) == ("reader", "false")
    assert asked[0].headers["Authorization"] == "Bearer secret"


def test_a_command_that_failed_has_the_last_word() -> None:
    frames = [(1, b"half"), (2, b"tar: not found"), (3, FAILURE)]
    with api_server(answering(frames, [])) as kube, pytest.raises(CommandFailed, match="tar: not found"):
        ran(kube)


def test_a_connection_that_ends_early_is_no_success() -> None:
    with api_server(answering([(1, b"half")], [])) as kube, pytest.raises(Unreachable, match="before the command"):
        ran(kube)


def test_silence_is_not_waited_for_for_ever() -> None:
    with api_server(answering([], [], close=False)) as kube, pytest.raises(Unreachable, match="sent nothing"):
        ran(kube, silent=0.2)


def test_who_may_not_exec_is_told_the_verb_and_the_resource() -> None:
    async def forbidden(_: web.Request) -> web.Response:
        return web.json_response({"kind": "Status", "message": "pods is forbidden"}, status=403)

    with api_server(forbidden) as kube, pytest.raises(NotAuthorised, match="verb create on resource pods/exec"):
        ran(kube)


def test_nobody_there(tmp_path: Path) -> None:
    configuration = Configuration()
    configuration.host = "http://127.0.0.1:1"
    with pytest.raises(Unreachable, match=r"http://127.0.0.1:1"):
        ran(Kube(ApiClient(configuration), "team", "test"))
