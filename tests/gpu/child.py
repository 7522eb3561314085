"""One check in a process of its own: `python -m gpu.child MODULE PLACE FINDINGS SECONDS`.

Every finding is appended to the file FINDINGS at once, so that a process that is killed has told what it knew. Shortly
before its time is over, the stacks of all threads go to its log: a check that hangs says where.
"""

from __future__ import annotations

import faulthandler
import importlib
import json
import sys
from pathlib import Path

from gpu.finding import encode
from gpu.place import Place

LAST_WORDS_SECONDS = 2.0
"""Before the time limit, for the stacks."""


def main() -> None:
    module, place, findings, seconds = sys.argv[1:]
    faulthandler.dump_traceback_later(max(0.1, float(seconds) - LAST_WORDS_SECONDS))
    check = importlib.import_module(module).check
    with Path(findings).open("a", encoding="utf-8") as file:
        for finding in check(Place.read(place)):
            print(json.dumps(encode(finding), ensure_ascii=False), file=file, flush=True)


if __name__ == "__main__":
    main()
