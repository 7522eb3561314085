"""The zygote: a new interpreter that protects itself, imports a program once and forks children that share its memory.

It never sees a job: it only passes the socket between worker and child. Requests on its control socket, one at a time,
each with one answer:

| request | answer |
| --- | --- |
| (its start) | `{"protections": …}` |
| `{"do": "warm"}` | `{}`, once the program is imported, or `{"error": …}` |
| `{"do": "fork"}` with a descriptor | `{"pid": …}` |
| `{"do": "end", "pid": …}` | `{"status": …}`: the wait status, after killing and reaping the child |

It ends when the control socket closes. The kernel ends it when the worker ends.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toolorchestra.sandbox import linux
from toolorchestra.sandbox.child import be_child
from toolorchestra.sandbox.limits import Limits
from toolorchestra.sandbox.protections import SECCOMP, Protections, put_up

CONTROL_BYTES = 16 * 1024
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Zygote:
    """The zygote. `settings`: `run` and `warm` as `module:function`, `limits`, `outside` (protections around it)."""

    def __init__(self, control: socket.socket, settings: dict[str, Any]) -> None:
        self._control = control
        self._settings = settings
        self._limits = Limits(**settings["limits"])
        # Opened before Landlock closes /proc. Reading it later gives the values of that time.
        self._memory = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
        # A child that a job wakes should not preempt the worker, which continues to send jobs meanwhile.
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        with contextlib.suppress(OSError):  # if memory runs out, the kernel should kill a child and not the worker
            Path("/proc/self/oom_score_adj").write_text("1000")
        self._protections = put_up(outside=Protections.read(settings["outside"]))
        self._run: Callable[[Any], Any] | None = None
        self._address_space = 0

    def serve(self) -> None:
        """Serve requests until the worker closes the control socket."""
        self._answer({"protections": self._protections.dump()})
        while True:
            message, descriptors, _, _ = socket.recv_fds(self._control, CONTROL_BYTES, 1)
            if not message:
                return
            request = json.loads(message)
            match request["do"]:
                case "warm":
                    self._answer(self._warm())
                case "fork":
                    self._answer({"pid": self._fork(socket.socket(fileno=descriptors[0]))})
                case "end":
                    self._answer({"status": _end(request["pid"])})

    def _answer(self, value: dict[str, Any]) -> None:
        self._control.sendall(json.dumps(value).encode())

    def _warm(self) -> dict[str, Any]:
        try:
            if (warm := self._settings["warm"]) is not None:
                _named(warm)()
            self._run = _named(self._settings["run"])
        except Exception as error:  # reported to the worker, which cannot see into this process
            return {"error": f"{type(error).__name__}: {error}"[:2000]}
        # Children share the objects that exist now: their garbage collector must not touch them.
        gc.collect()
        gc.freeze()
        self._address_space = int(os.pread(self._memory, 256, 0).split()[0]) * _PAGE
        return {}

    def _fork(self, jobs: socket.socket) -> int:
        if self._run is None:
            raise RuntimeError("the worker requests a child before the zygote is warm")
        zygote = os.getpid()
        if (pid := os.fork()) == 0:
            be_child(
                self._run,
                jobs=jobs,
                limits=self._limits,
                address_space=self._address_space,
                zygote=zygote,
                filtered=SECCOMP in self._protections.held,
            )
        jobs.close()
        return pid


def _end(pid: int) -> int:
    """Kill and reap a child, and return its wait status. It was not reaped before, so the pid is still its own."""
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    return status


def _named(reference: str) -> Callable[..., Any]:
    module, _, function = reference.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), function)
    return found


def main() -> None:
    """Run `python -m toolorchestra.sandbox.zygote CONTROL-FD`. The first message has the settings."""
    linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
    control = socket.socket(fileno=int(sys.argv[1]))
    message = control.recv(CONTROL_BYTES)
    if message:
        Zygote(control, json.loads(message)).serve()


if __name__ == "__main__":
    main()
