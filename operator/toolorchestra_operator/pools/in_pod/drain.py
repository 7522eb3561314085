"""The hook before SIGTERM: `drain.py BASE_URL SECONDS`. Waits until vLLM has nothing in flight, at most so long.

First a while for the pod's address to leave every proxy; then idle twice in a row, because a request that was just
accepted is not counted yet. By vLLM's metrics, so that any version of it will do.
"""

import sys
import time
import urllib.request

LEAVE_SECONDS = 5.0
COUNTS = ("vllm:num_requests_running", "vllm:num_requests_waiting")


def busy(metrics: str) -> bool:
    lines = [line for line in metrics.splitlines() if line.split("{")[0].split(" ")[0] in COUNTS]
    return any(float(line.split()[-1]) > 0 for line in lines)


def main(base: str, seconds: str) -> None:
    """Returns when idle, or when the time is up. OSError: nobody serves, so nothing is left to wait for."""
    end = time.monotonic() + float(seconds)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    time.sleep(min(LEAVE_SECONDS, float(seconds)))
    idle = 0
    while idle < 2 and time.monotonic() < end:
        idle = 0 if busy(opener.open(base + "/metrics", timeout=4).read().decode()) else idle + 1
        time.sleep(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
