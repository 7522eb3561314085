"""The engine with compiled code and CUDA graphs: its start, and how fast it writes then."""

from __future__ import annotations

import time
from collections.abc import Iterator

from gpu.finding import Figure, Finding
from gpu.models import SHAPES, TINY, write_model
from gpu.place import Place
from gpu.rollouts import engine_config, launched, wait_ready
from gpu.throughput import AT_A_TIME, KV_BYTES, throughput


def check(place: Place) -> Iterator[Finding]:
    shape = TINY if place.tiny else SHAPES[place.subject]
    folder = write_model(place.scratch / "model", shape, device=place.device)
    began = time.perf_counter()
    config = engine_config(place, folder, eager=False, kv_bytes=KV_BYTES, at_a_time=AT_A_TIME)
    with launched(config, log=place.folder / "engine.log") as server:
        wait_ready(server)
        yield Figure(name="engine ready, with graphs", value=time.perf_counter() - began, unit="s")
        yield from throughput(server, shape.vocabulary, tiny=place.tiny, name="graphs")
