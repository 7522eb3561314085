"""A forked child, which runs one job after the other. A harmful job can destroy only its child."""

from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import Callable
from typing import Any

from toolorchestra.sandbox import linux, seccomp
from toolorchestra.sandbox.framing import Inbox, address, encode, parse
from toolorchestra.sandbox.limits import JobClock, Limits, limit_child

_DETAIL = 300
_JOBS = 3
"""The only open descriptor besides the standard ones, which are /dev/null."""


def be_child(
    run: Callable[[Any], Any], *, jobs: socket.socket, limits: Limits, address_space: int, zygote: int, filtered: bool
) -> None:
    """Serve jobs until the worker closes the connection. Never returns."""
    status = 1
    try:
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != zygote:  # the zygote ended before the prctl call, so no signal will come
            os._exit(1)
        connection = _alone_with(jobs)
        limit_child(limits, address_space=address_space)
        if filtered:
            seccomp.install_child_filter()
        _serve(run, connection, limits)
        status = 0
    except (EOFError, ConnectionError):
        status = 0
    finally:
        os._exit(status)


def _alone_with(jobs: socket.socket) -> socket.socket:
    """Close all other inherited descriptors, and return the socket."""
    os.dup2(1, 2)
    os.dup2(jobs.detach(), _JOBS)
    os.closerange(_JOBS + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
    return socket.socket(fileno=_JOBS)


def _serve(run: Callable[[Any], Any], connection: socket.socket, limits: Limits) -> None:
    clock, inbox = JobClock(limits), Inbox(connection, at_most=limits.input_bytes)
    for _ in range(limits.jobs_per_child):
        number, body = inbox.next()
        clock.start()
        connection.sendall(address(_reply(run, body), number))


def _reply(run: Callable[[Any], Any], body: bytes) -> bytes:
    """Run a job and return its encoded result. Any exception of the job is its result (trust boundary)."""
    try:
        return encode({"value": run(parse(body))})
    except MemoryError:
        return encode({"out_of_memory": True})
    except BaseException as error:
        return encode({"raised": f"{type(error).__name__}: {_clip(error)}"})


def _clip(error: BaseException) -> str:
    try:
        return str(error)[:_DETAIL]
    except Exception:  # an exception whose text raises has no text
        return ""
