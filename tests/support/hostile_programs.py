"""What a child is asked to try. Imported by zygotes, by name."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import Any

SEEN: list[str] = []


def run(job: dict[str, Any]) -> Any:
    SEEN.append(job["try"])
    return globals()[f"try_{job['try']}"](*job.get("with", ()))


def bad_warm() -> None:
    raise ImportError("there is no such library")


def try_echo(value: Any) -> Any:
    return value


def try_seen() -> list[str]:
    return SEEN


def try_environment() -> dict[str, str]:
    return dict(os.environ)


def try_descriptors() -> list[int]:
    found = []
    for fd in range(64):
        try:
            os.fstat(fd)
        except OSError:
            continue
        found.append(fd)
    return found


def try_socket(family: int) -> None:
    socket.socket(family, socket.SOCK_STREAM)


def try_socketpair() -> None:
    socket.socketpair()


def try_read(path: str) -> str:
    with open(path) as file:
        return file.read()


def try_list(path: str) -> list[str]:
    return os.listdir(path)


def try_write(path: str) -> None:
    with open(path, "w") as file:
        file.write("x")


def try_remove(path: str) -> None:
    os.remove(path)


def try_chmod(path: str) -> None:
    os.chmod(path, 0o777)


def try_fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def try_thread() -> None:
    threading.Thread(target=int).start()


def try_program() -> None:
    os.execv("/bin/true", ["true"])


def try_subprocess() -> None:
    subprocess.run(["/bin/true"], check=True)


def try_signal(pid: int) -> None:
    os.kill(pid, 0)


def try_kill_all() -> None:
    os.kill(-1, 9)


def try_limit_of_another(pid: int) -> None:
    import resource

    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 3))


def try_trace(pid: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(16, pid, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "ptrace")


def try_io_uring() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(425, 1, ctypes.create_string_buffer(256)) < 0:
        raise OSError(ctypes.get_errno(), "io_uring")


def try_namespace() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x10000000) < 0:
        raise OSError(ctypes.get_errno(), "unshare")


def try_signal_by_file(command: int, value: int) -> None:
    fcntl.fcntl(3, command, value)


def try_signal_by_ioctl(command: int, pid: int) -> None:
    fcntl.ioctl(3, command, struct.pack("i", pid))


def try_watch(path: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if (fd := libc.inotify_init1(0)) < 0 or libc.inotify_add_watch(fd, path.encode(), 0xFFF) < 0:
        raise OSError(ctypes.get_errno(), "inotify")


def try_outlive() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(1, 0, 0, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), "prctl")


def try_leave_the_session() -> None:
    os.setsid()


def try_spin() -> None:
    while True:
        pass


def try_hold_the_gil() -> int:
    return len(str(9**9**9))


def try_outlast_the_timer() -> float:
    """Seconds that a timer of this process still had: it is waited for."""
    left = signal.getitimer(signal.ITIMER_REAL)[0]
    while signal.getitimer(signal.ITIMER_REAL)[0]:
        signal.pause()
    return left


def try_sleep() -> None:
    time.sleep(3600)


def try_memory() -> int:
    return len(bytearray(64 << 30))


def try_grow() -> None:
    kept = []
    while True:
        kept.append(bytearray(1 << 20))


def try_recurse() -> None:
    try_recurse()


def try_overflow_the_stack() -> None:
    value: Any = []
    for _ in range(10_000_000):
        value = [value]
    del value
    json.dumps([[[0]]])


def try_segfault() -> None:
    ctypes.string_at(1)


def try_exit(status: int) -> None:
    os._exit(status)


def try_system_exit() -> None:
    raise SystemExit(3)


def try_raise(message: str) -> None:
    raise ValueError(message)


def try_long_result() -> str:
    return "x" * 10_000_000


def try_no_json() -> Any:
    return {1, 2}


def try_not_a_number() -> float:
    return float("nan")


def try_print(count: int) -> None:
    os.write(1, b"x" * count)
    os.write(2, b"x" * count)


def try_write_reply(body: str) -> None:
    os.write(3, struct.pack(">I8s", len(body), b"") + body.encode())
    os._exit(0)


def try_answer_the_next(value: Any) -> None:
    body = json.dumps({"value": value}).encode()
    os.write(3, 2 * (struct.pack(">I8s", len(body), b"guessed!") + body))


def try_talk_on(size: int) -> None:
    """The answer, and then more than anyone asked for."""
    number = _number_of_the_job()
    body = b'{"value": 1}'
    os.write(3, struct.pack(">I8s", len(body), number) + body)
    while True:
        os.write(3, bytes(size))


def try_leave_a_timer(seconds: float) -> float:
    """It ends whoever works then."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    return seconds


def _number_of_the_job() -> bytes:
    """As code finds it that runs in the child: from the frame that called it."""
    frame = sys._getframe()
    while "number" not in frame.f_locals or not isinstance(frame.f_locals["number"], bytes):
        frame = frame.f_back  # type: ignore[assignment]
    return frame.f_locals["number"]


def try_die_of_signal(number: int) -> None:
    """By a timer of its own: kill(2) is refused."""
    libc = ctypes.CDLL(None, use_errno=True)
    event = struct.pack("qii", 0, number, 0).ljust(64, b"\0")
    timer = ctypes.c_void_p()
    libc.timer_create(1, event, ctypes.byref(timer))
    libc.timer_settime(timer, 0, struct.pack("qqqq", 0, 0, 0, 1), None)
    time.sleep(60)


def try_claim_length(length: int) -> None:
    os.write(3, struct.pack(">I8s", length, b""))
    time.sleep(3600)
