"""The embedded nats-server: ports, restarts, and that it never outlives its parent."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import nats
import pytest

from toolorchestra.local import nats_server
from toolorchestra.local.nats_server import NatsServer, NatsServerError


async def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(NatsServerError, match=f"port {port} on 127.0.0.1 is taken"):
            await NatsServer(directory=tmp_path, port=port).start()


async def test_it_comes_back_on_the_same_port_with_its_store(tmp_path: Path) -> None:
    async with NatsServer(directory=tmp_path) as server:
        url, pid = server.url, server.pid
        client = await nats.connect(url)
        js = client.jetstream()
        await js.add_stream(name="S", subjects=["s"])
        await js.publish("s", b"kept")
        await client.close()
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(15):
            await server.restarted(after=0)
        assert server.url == url
        assert server.pid != pid
        client = await nats.connect(url)
        assert (await client.jetstream().get_msg("S", 1)).data == b"kept"
        await client.close()


async def test_it_stops_and_starts_again(tmp_path: Path) -> None:
    first = NatsServer(directory=tmp_path)
    await first.start()
    await first.stop()
    await first.stop()
    with pytest.raises(OSError, match="Connect call failed"):
        await asyncio.open_connection("127.0.0.1", first.port)
    async with NatsServer(directory=tmp_path, port=first.port) as second:
        assert second.restarts == 0


async def test_a_store_that_cannot_be_used_is_explained(tmp_path: Path) -> None:
    (tmp_path / "jetstream").write_text("not a directory")
    with pytest.raises(NatsServerError, match=r"did not start(.|\n)*not a directory"):
        await NatsServer(directory=tmp_path).start()


async def test_it_is_given_up_after_too_many_deaths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_server, "_MAX_RESTARTS", 2)
    async with NatsServer(directory=tmp_path) as server:
        (tmp_path / "nats-server.conf").write_text("no such option: 1")
        os.kill(server.pid, signal.SIGKILL)
        async with asyncio.timeout(15):
            failure = await server.failed()
    assert "keeps dying" in str(failure)
    assert "Parse error" in str(failure)


async def test_it_dies_with_its_parent(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from toolorchestra.local.nats_server import NatsServer\n"
        "async def main():\n"
        f"    server = NatsServer(directory=Path({str(tmp_path)!r}))\n"
        "    await server.start()\n"
        "    print(server.pid, flush=True)\n"
        "    await asyncio.Event().wait()\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    fd = os.pidfd_open(pid)
    parent.kill()
    await parent.wait()
    loop, gone = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(fd, gone.set)
    async with asyncio.timeout(5):
        await gone.wait()
    loop.remove_reader(fd)
    os.close(fd)
