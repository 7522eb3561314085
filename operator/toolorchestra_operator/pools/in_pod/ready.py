"""The readiness probe: `ready.py BASE_URL MODEL`. Ready: the engine is alive, and the server serves MODEL by that name.

An exec probe, because /v1 wants the API key and an HTTP probe's headers cannot come from a Secret; /health alone would
be answered by whatever serves there.
"""

import json
import os
import sys
import urllib.request


def get(url: str) -> bytes:
    request = urllib.request.Request(url, headers={"Authorization": "Bearer " + os.environ.get("VLLM_API_KEY", "")})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    answer: bytes = opener.open(request, timeout=4).read()
    return answer


def main(base: str, model: str) -> str:
    """What is wrong; "": nothing."""
    try:
        get(base + "/health")
        served = [one["id"] for one in json.loads(get(base + "/v1/models"))["data"]]
    except (OSError, ValueError, KeyError) as error:
        return f"{type(error).__name__}: {error}"
    return "" if model in served else f"serves {served}, not {model}"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) or 0)
