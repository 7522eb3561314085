"""Two seccomp filters (seccomp(2)) as classic BPF: one for zygote and children, one only for children.

The refused calls are listed; every system call newer than the list is refused too. Refused calls fail with EPERM, so
that a library that can do without them continues. Calls of another architecture kill the process. Filters can be added
but never removed.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Mapping

from toolorchestra.sandbox import linux

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Machine → AUDIT_ARCH_… and its column in the tables below."""
_X32 = 0x4000_0000
"""Calls of the x32 ABI on x86_64: the same calls under other numbers."""
_NEWEST = 462
"""mseal (Linux 6.10): later calls were not reviewed."""

_ALLOW, _KILL = 0x7FFF_0000, 0x8000_0000
_ERRNO = 0x0005_0000
_LOAD, _JUMP_EQUAL, _JUMP_ABOVE, _RETURN = 0x20, 0x15, 0x25, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT, _SECOND_ARGUMENT = 0, 4, 16, 24
"""Offsets in struct seccomp_data."""

_Calls = dict[str, tuple[int | None, int | None]]

SOCKETS: _Calls = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "listen": (50, 201),
    "accept": (43, 202),
    "accept4": (288, 242),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
}
OTHER_PROCESSES: _Calls = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setaffinity": (203, 122),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmdt": (67, 197),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "mq_timedsend": (242, 182),
    "mq_timedreceive": (243, 183),
    "mq_notify": (244, 184),
}
PROGRAMS: _Calls = {"execve": (59, 221), "execveat": (322, 281)}
NAMESPACES: _Calls = {
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
}
KERNEL: _Calls = {
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "create_module": (174, None),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "syslog": (103, 116),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "nfsservctl": (180, 42),
    "lookup_dcookie": (212, 18),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "personality": (135, 92),
    "uselib": (134, None),
    "modify_ldt": (154, None),
    "iopl": (172, None),
    "ioperm": (173, None),
    "vhangup": (153, 58),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
}
"""Calls that change the kernel or the machine. memfd: memory that no limit of the process counts."""
FILE_ATTRIBUTES: _Calls = {
    "chmod": (90, None),
    "fchmod": (91, 52),
    "fchmodat": (268, 53),
    "fchmodat2": (452, 452),
    "chown": (92, None),
    "lchown": (94, None),
    "fchown": (93, 55),
    "fchownat": (260, 54),
    "setxattr": (188, 5),
    "lsetxattr": (189, 6),
    "fsetxattr": (190, 7),
    "removexattr": (197, 14),
    "lremovexattr": (198, 15),
    "fremovexattr": (199, 16),
    "utime": (132, None),
    "utimes": (235, None),
    "futimesat": (261, None),
    "utimensat": (280, 88),
}
"""Changes of files that Landlock does not restrict."""
OF_ITSELF_ONLY: _Calls = {"prlimit64": (302, 261)}
"""Calls that are allowed on the calling process (first argument 0) and refused on any other."""

SIGNALS_OF_FILES: dict[str, tuple[int | None, int | None, tuple[int, ...]]] = {
    "fcntl": (72, 25, (8, 10, 15, 1024, 1026)),  # F_SETOWN, F_SETSIG, F_SETOWN_EX, F_SETLEASE, F_NOTIFY
    "ioctl": (16, 29, (0x8901, 0x8902)),  # FIOSETOWN, SIOCSPGRP
}
"""Calls whose second argument is a command, with the refused commands. With them the kernel sends any signal to any
process of the same user when a descriptor becomes readable, without a call of kill(2)."""
WATCHES: _Calls = {
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "sync": (162, 81),
    "syncfs": (306, 267),
}
"""Landlock does not restrict watching the names in a folder. A sync delays all writers on the machine."""

ZYGOTE = SOCKETS | OTHER_PROCESSES | PROGRAMS | NAMESPACES | KERNEL | FILE_ATTRIBUTES | WATCHES
CHILD: _Calls = {
    "clone": (56, 220),
    "clone3": (435, 435),
    "fork": (57, None),
    "vfork": (58, None),
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
    "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240),
    "prctl": (157, 167),
    "setsid": (112, 157),
    "setpgid": (109, 154),
}
"""Calls that only the zygote needs, to fork and end children. Children may do neither. They also may not remove what
ends them with the zygote: the parent-death signal (prctl) and the process group."""


def install_zygote_filter() -> None:
    """Forbid sockets, programs and access to other processes. Needs no_new_privs. OSError: the kernel refuses."""
    _install(_program(ZYGOTE, of_itself=OF_ITSELF_ONLY, commands=SIGNALS_OF_FILES, newest=_NEWEST))


def install_child_filter() -> None:
    """Forbid processes, threads and signals, in addition to the zygote's filter."""
    _install(_program(CHILD))


def _program(
    refused: _Calls,
    *,
    of_itself: _Calls | None = None,
    commands: Mapping[str, tuple[int | None, int | None, tuple[int, ...]]] | None = None,
    newest: int = _X32 - 1,
) -> bytes:
    found = _ARCHITECTURES.get(linux.machine())
    if found is None:
        raise OSError(errno.ENOSYS, f"no table of system calls for {linux.machine()}")
    architecture, column = found
    code = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_JUMP_EQUAL, architecture, yes=1),
        _instruction(_RETURN, _KILL),
        _instruction(_LOAD, _NUMBER),
        *_refuse_if(_JUMP_ABOVE, newest),
    ]
    for calls in refused.values():
        if (number := calls[column]) is not None:
            code += _refuse_if(_JUMP_EQUAL, number)
    for *numbers, ours in (commands or {}).values():
        if (number := numbers[column]) is not None:
            checks = [_instruction(_LOAD, _SECOND_ARGUMENT)]  # the kernel uses only its lower half
            for command in ours:
                checks += _refuse_if(_JUMP_EQUAL, command)
            checks.append(_instruction(_RETURN, _ALLOW))
            code += [_instruction(_JUMP_EQUAL, number, no=len(checks)), *checks]
    for calls in (of_itself or {}).values():
        if (number := calls[column]) is not None:
            code += [
                _instruction(_JUMP_EQUAL, number, no=6),
                _instruction(_LOAD, _FIRST_ARGUMENT),
                _instruction(_JUMP_EQUAL, 0, yes=1),
                _instruction(_RETURN, _ERRNO | errno.EPERM),
                _instruction(_LOAD, _FIRST_ARGUMENT + 4),
                _instruction(_JUMP_EQUAL, 0, yes=1),
                _instruction(_RETURN, _ERRNO | errno.EPERM),
            ]
    code.append(_instruction(_RETURN, _ALLOW))
    return b"".join(code)


def _refuse_if(jump: int, value: int) -> list[bytes]:
    return [_instruction(jump, value, no=1), _instruction(_RETURN, _ERRNO | errno.EPERM)]


def _instruction(code: int, value: int, *, yes: int = 0, no: int = 0) -> bytes:
    """Return a struct sock_filter. `yes` and `no`: instructions to skip after a comparison."""
    return struct.pack("=HBBI", code, yes, no, value)


class _Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("code", ctypes.c_char_p))


def _install(program: bytes) -> None:
    filter = _Filter(length=len(program) // 8, code=program)
    mode_filter = 2
    linux.prctl(linux.PR_SET_SECCOMP, mode_filter, ctypes.cast(ctypes.pointer(filter), ctypes.c_void_p))
