"""Gives up the privileges of a process: capabilities(7), no_new_privs."""

from __future__ import annotations

import ctypes

from toolorchestra.sandbox import linux

_CAPABILITY_VERSION_3 = 0x20080522
_CAPSET = {"x86_64": 126, "aarch64": 91}


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def forbid_new_privileges() -> None:
    """Set no_new_privs: an exec gains no privileges (setuid, file capabilities). OSError: the kernel refuses."""
    linux.prctl(linux.PR_SET_NO_NEW_PRIVS, 1)


def drop_capabilities() -> None:
    """Drop all capabilities, also those that an exec as root would restore. OSError: it is not possible."""
    number = _CAPSET.get(linux.machine())
    if number is None:
        raise OSError(f"no number of capset(2) for {linux.machine()}")
    for capability in range(64):
        try:
            linux.prctl(linux.PR_CAPBSET_DROP, capability)
        except OSError:  # after the last capability, or no right to drop: then the sets are empty anyway
            break
    linux.prctl(linux.PR_CAP_AMBIENT, linux.PR_CAP_AMBIENT_CLEAR_ALL)
    header = _Header(version=_CAPABILITY_VERSION_3, pid=0)
    linux.syscall(number, ctypes.byref(header), (_Data * 2)())
