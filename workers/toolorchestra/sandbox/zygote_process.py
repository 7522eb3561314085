"""The worker's handle of its zygote: start it, fork and end children, end it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import toolorchestra
from toolorchestra.sandbox import bubblewrap
from toolorchestra.sandbox.errors import SandboxError
from toolorchestra.sandbox.limits import Limits
from toolorchestra.sandbox.program import Program
from toolorchestra.sandbox.protections import BUBBLEWRAP, Protections
from toolorchestra.sandbox.zygote import CONTROL_BYTES

START_SECONDS = 60.0
WARM_SECONDS = 300.0
"""Time-out of the imports, on a busy machine."""
_ASK_SECONDS = 60.0
_LAST_WORDS = 2000
_PYTHON = os.path.realpath(sys.executable)
"""Real path of the interpreter. In a virtual environment it is a link; the folders are passed separately."""


def clean_environment() -> dict[str, str]:
    """Return the whole environment of a zygote: where Python's modules are, and settings against numeric threads.

    The working folder of this process is left out, although Python searches it for modules, because runs are in it.
    """
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    package, here = Path(toolorchestra.__file__).parents[1], Path.cwd()
    folders = [Path(each).resolve() for each in sys.path if each and (each in given or Path(each).resolve() != here)]
    return {
        "PYTHONPATH": os.pathsep.join(map(str, dict.fromkeys((package, *folders)))),
        "PYTHONSAFEPATH": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONWARNINGS": "ignore",
        "LANG": "C.UTF-8",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


class ZygoteProcess:
    """A running zygote. It answers one request at a time."""

    def __init__(self, process: subprocess.Popen[bytes], control: socket.socket, errors: IO[bytes]) -> None:
        self._process, self._control, self._errors = process, control, errors
        self._one_at_a_time = asyncio.Lock()
        self._warm = False
        self.protections = Protections(held=())

    @classmethod
    async def start(cls, program: Program, *, limits: Limits) -> ZygoteProcess:
        """Start a protected zygote, which has imported nothing yet. SandboxError: it does not start."""
        prefix, why_not = await bubblewrap.command(_PYTHON, environment=clean_environment())
        outside = Protections((), {BUBBLEWRAP: why_not}) if why_not else Protections((BUBBLEWRAP,))
        zygote = cls.spawn(prefix)
        settings = {
            "run": program.run,
            "warm": program.warm,
            "limits": asdict(limits),
            "outside": outside.dump(),
        }
        try:
            zygote.protections = Protections.read((await zygote._ask(settings, START_SECONDS))["protections"])
        except BaseException:
            zygote.kill()
            raise
        return zygote

    @classmethod
    def spawn(cls, prefix: Sequence[str]) -> ZygoteProcess:
        """Start only the process, with the command `prefix`. It waits for its settings."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        with theirs:
            process = subprocess.Popen(
                [*prefix, _PYTHON, "-S", "-m", "toolorchestra.sandbox.zygote", str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=clean_environment(),
                cwd="/",
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # Ctrl-C in a terminal is for the worker, which still grades what it ends
            )
        ours.setblocking(False)
        return cls(process, ours, errors)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    async def fork(self) -> tuple[int, socket.socket]:
        """Fork a child. Return its pid in the zygote's namespace, and the socket for its jobs."""
        if not self._warm:
            if error := (await self._ask({"do": "warm"}, WARM_SECONDS)).get("error"):
                raise SandboxError(f"the sandbox cannot import its program: {error}")
            self._warm = True
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                answer = await self._ask({"do": "fork"}, _ASK_SECONDS, descriptor=theirs.fileno())
            except BaseException:
                ours.close()
                raise
        return int(answer["pid"]), ours

    async def end(self, pid: int) -> int:
        """Kill a child if it still runs, and return its wait status."""
        return int((await self._ask({"do": "end", "pid": pid}, _ASK_SECONDS))["status"])

    def kill(self) -> None:
        """End the zygote and all its children, which the kernel kills with their parent. Idempotent."""
        self._control.close()
        self._errors.close()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    async def _ask(self, request: Mapping[str, Any], seconds: float, *, descriptor: int | None = None) -> Any:
        # Completed even if the caller is cancelled: an unread answer would be taken for that of the next request.
        return await _to_its_end(self._in_turn(request, seconds, descriptor))

    async def _in_turn(self, request: Mapping[str, Any], seconds: float, descriptor: int | None) -> Any:
        async with self._one_at_a_time:
            return await self._exchange(request, seconds, descriptor)

    async def _exchange(self, request: Mapping[str, Any], seconds: float, descriptor: int | None) -> Any:
        loop, message = asyncio.get_running_loop(), json.dumps(request).encode()
        try:
            async with asyncio.timeout(seconds):
                if descriptor is None:
                    await loop.sock_sendall(self._control, message)
                else:
                    socket.send_fds(self._control, [message], [descriptor])
                answer = await loop.sock_recv(self._control, CONTROL_BYTES)
        except (OSError, TimeoutError) as error:
            raise SandboxError(f"the sandbox's parent process does not answer ({error!r}){self._words()}") from error
        if not answer:
            raise SandboxError(f"the sandbox's parent process ended{self._words()}")
        return json.loads(answer)

    def _words(self) -> str:
        """Return what the zygote wrote last to stderr, for the message."""
        if self._errors.closed:
            return ""
        self._errors.seek(max(0, os.fstat(self._errors.fileno()).st_size - _LAST_WORDS))
        said = self._errors.read().decode(errors="replace").strip()
        return f": {said}" if said else ""


async def _to_its_end(work: Any) -> Any:
    """Await `work` to its end even if the caller is cancelled; then raise the cancellation."""
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # retrieved, so that it is not logged; the cancellation is raised instead
        raise
