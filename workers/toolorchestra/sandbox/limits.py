"""What one job, and one child, may use."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

_MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Seconds and bytes. CPU time decides before wall time: a slow machine is not the job's fault."""

    cpu_seconds: int = 10
    wall_seconds: float = 120.0
    memory_bytes: int = 512 * _MEGABYTE
    """Address space above what the zygote uses once it is warm."""
    output_bytes: int = 64 * 1024
    """Of one result."""
    input_bytes: int = 16 * _MEGABYTE
    """Of one job: a longer one is not sent."""
    open_files: int = 32
    jobs_per_child: int = 5_000
    """Then a fresh one is forked: what libraries cache does not grow for ever. A fork, and what the first jobs make
    anew, cost about a hundred times a job."""

    @property
    def lifetime_cpu_seconds(self) -> int:
        """What a child can use in all, whatever its code does to the limit of one job."""
        return self.jobs_per_child * self.cpu_seconds


def limit_child(limits: Limits, *, address_space: int) -> None:
    """Bind this process. `address_space`: bytes that it had before its first job. Processes are bounded by the second
    seccomp filter too, because the kernel counts them per user and not at all for root."""
    memory = address_space + limits.memory_bytes
    hard = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_CPU: limits.lifetime_cpu_seconds,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_NOFILE: limits.open_files,
        resource.RLIMIT_NPROC: 0,
    }
    for which, value in hard.items():
        _, ceiling = resource.getrlimit(which)
        bound = value if ceiling == resource.RLIM_INFINITY else min(value, ceiling)
        resource.setrlimit(which, (bound, bound))


class JobClock:
    """Gives each job of this process its CPU seconds. Past them the kernel sends SIGXCPU, whoever holds the GIL."""

    def __init__(self, limits: Limits) -> None:
        self._seconds = limits.cpu_seconds
        self._soft = -1

    def start(self) -> None:
        """The next job's seconds begin now. The kernel counts whole ones, and is told where they have changed."""
        soft = int(time.process_time()) + 1 + self._seconds
        if soft != self._soft:
            _, hard = resource.getrlimit(resource.RLIMIT_CPU)
            resource.setrlimit(resource.RLIMIT_CPU, (min(soft, hard), hard))
            self._soft = soft
