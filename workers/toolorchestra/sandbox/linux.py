"""Linux calls that Python's standard library does not have: prctl(2), and system calls by number."""

from __future__ import annotations

import ctypes
import errno
import os
import platform

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_SECCOMP = 22
PR_CAPBSET_DROP = 24
PR_SET_NO_NEW_PRIVS = 38
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long


def prctl(option: int, *arguments: int | ctypes.c_void_p) -> int:
    """Call prctl(2). OSError: the kernel refuses."""
    padded = [*arguments, *([0] * (4 - len(arguments)))]
    return _checked(_LIBC.prctl(option, *(_word(each) for each in padded)))


def syscall(number: int, *arguments: object) -> int:
    """Make a system call by number. OSError: the kernel refuses."""
    return _checked(_LIBC.syscall(ctypes.c_long(number), *arguments))


def machine() -> str:
    """Return the machine type: `x86_64`, `aarch64`, …"""
    return platform.machine()


def why(error: OSError) -> str:
    """Return the name of an OSError's code, such as `EPERM`."""
    return errno.errorcode.get(error.errno or 0, str(error))


def _word(value: int | ctypes.c_void_p) -> ctypes.c_ulong | ctypes.c_void_p:
    return ctypes.c_ulong(value) if isinstance(value, int) else value


def _checked(result: int) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)
