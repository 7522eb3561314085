"""Resource limits of one job and of one child."""

from __future__ import annotations

import resource
import time
from dataclasses import dataclass

_MEGABYTE = 1 << 20


@dataclass(frozen=True)
class Limits:
    """Limits in seconds and bytes. CPU time is the main limit, because a slow machine is not the job's fault."""

    cpu_seconds: int = 10
    wall_seconds: float = 120.0
    memory_bytes: int = 512 * _MEGABYTE
    """Address space beyond that of the warm zygote."""
    output_bytes: int = 64 * 1024
    """Most bytes of one result."""
    input_bytes: int = 16 * _MEGABYTE
    """Most bytes of one job; a longer one is not sent."""
    open_files: int = 32
    jobs_per_child: int = 5_000
    """Jobs after which a new child is forked, so that the caches of libraries do not grow without limit. A fork, with
    the caches that the first jobs fill again, costs about as much as a hundred jobs."""

    @property
    def lifetime_cpu_seconds(self) -> int:
        """Most CPU seconds of a child in all, even if its code changes the limit of one job."""
        return self.jobs_per_child * self.cpu_seconds


def limit_child(limits: Limits, *, address_space: int) -> None:
    """Set the limits of this process. `address_space`: its bytes before the first job.

    The second seccomp filter also forbids new processes, because the kernel counts processes per user, and for root not
    at all.
    """
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
    """Gives each job of this process its CPU seconds. Then the kernel sends SIGXCPU, whoever holds the GIL."""

    def __init__(self, limits: Limits) -> None:
        self._seconds = limits.cpu_seconds
        self._soft = -1

    def start(self) -> None:
        """Start the CPU time of the next job. The kernel counts whole seconds; the limit is set only if it changed."""
        soft = int(time.process_time()) + 1 + self._seconds
        if soft != self._soft:
            _, hard = resource.getrlimit(resource.RLIMIT_CPU)
            resource.setrlimit(resource.RLIMIT_CPU, (min(soft, hard), hard))
            self._soft = soft
