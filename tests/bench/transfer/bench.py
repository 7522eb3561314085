"""A snapshot's way from trainer to engine, by phase: ours against safetensors' save_file, sha256 and safe_open.

The peer is what was there before: the whole model copied to the host, saved, its digest read back, checked again by the
engine's client, checked a third time and loaded by the paused engine. Random float32 weights in Qwen3-0.6B's shapes;
on a CPU with 8 of its layers, on a GPU with all, and sent in bfloat16. Sides take turns; medians count. What was loaded
is compared. Prints a table, writes results.json; ends with 1 where the sides differ or the bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from toolorchestra.weights.reader import read_tensors
from toolorchestra.weights.snapshot import KeySet, file_digest, verify
from toolorchestra.weights.writer import write_snapshot

ROOT = Path(__file__).resolve().parents[3]
SHARED = Path("/dev/shm")
HIDDEN, INTERMEDIATE, HEADS, KV_HEADS, HEAD, VOCABULARY = 1024, 3072, 16, 8, 128, 151_936
CASES = {"cpu": (torch.float32, 8), "cuda": (torch.bfloat16, 28)}
"""Dtype of file and engine, and layers: 1.1 and 1.2 GB."""
BAR = 2.0
"""How many times faster than the peer."""

TRANSFER = ("snapshot", "check", "load")

Tensors = dict[str, torch.Tensor]
Seconds = dict[str, float]


def shapes(layers: int) -> KeySet:
    """Of Qwen3-0.6B, its head tied."""
    block = {
        "input_layernorm": (HIDDEN,),
        "mlp.down_proj": (HIDDEN, INTERMEDIATE),
        "mlp.gate_proj": (INTERMEDIATE, HIDDEN),
        "mlp.up_proj": (INTERMEDIATE, HIDDEN),
        "post_attention_layernorm": (HIDDEN,),
        "self_attn.k_norm": (HEAD,),
        "self_attn.k_proj": (KV_HEADS * HEAD, HIDDEN),
        "self_attn.o_proj": (HIDDEN, HEADS * HEAD),
        "self_attn.q_norm": (HEAD,),
        "self_attn.q_proj": (HEADS * HEAD, HIDDEN),
        "self_attn.v_proj": (KV_HEADS * HEAD, HIDDEN),
    }
    blocks = {f"model.layers.{i}.{name}.weight": shape for i in range(layers) for name, shape in block.items()}
    return {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)} | blocks | {"model.norm.weight": (HIDDEN,)}


class Watch:
    """Wall seconds by phase, the device's work included."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.seconds: Seconds = {}
        self.cpu_seconds: Seconds = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        began, cpu = time.perf_counter(), time.process_time()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.seconds[name] = time.perf_counter() - began
        self.cpu_seconds[name] = time.process_time() - cpu


def ours(weights: Tensors, engine: Tensors, folder: Path, watch: Watch) -> None:
    """As Trainer.snapshot, EngineControl.update and SnapshotTransferEngine do it."""
    device, dtype = engine["model.norm.weight"].device, engine["model.norm.weight"].dtype
    keys = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    with watch.phase("snapshot"):
        pinned = device.type == "cuda"
        tensors = ((name, tensor.to(dtype)) for name, tensor in weights.items())
        snapshot = write_snapshot(folder / "ours", tensors, version="0-1", keys=keys, dtype=dtype, pinned=pinned)
    with watch.phase("check"):
        snapshot = verify(snapshot, want=keys)
    with watch.phase("load"):
        verify(snapshot, want=keys)
        for name, tensor in read_tensors(snapshot.file, device=device):
            engine[name].copy_(tensor)
    with watch.phase("check, from another machine"):
        verify(replace(snapshot, mark=""), want=keys)


def peers(weights: Tensors, engine: Tensors, folder: Path, watch: Watch) -> None:
    """What was there before."""
    device, dtype = engine["model.norm.weight"].device, engine["model.norm.weight"].dtype
    file = folder / "peer" / "weights.safetensors"
    file.parent.mkdir()
    with watch.phase("snapshot"):
        whole = {name: tensor.to(dtype).cpu().contiguous() for name, tensor in weights.items()}
        save_file(whole, file, metadata={"format": "pt"})
        digest = file_digest(file)
    with watch.phase("check"):
        assert file_digest(file) == digest
    with watch.phase("load"):
        assert file_digest(file) == digest
        with safe_open(file, framework="pt", device=str(device)) as content:
            for name in content.keys():  # noqa: SIM118
                engine[name].copy_(content.get_tensor(name))


def turn(
    side: Callable[[Tensors, Tensors, Path, Watch], None], weights: Tensors, engine: Tensors, folder: Path
) -> Watch:
    """One side's transfer, whose weights it checks."""
    device, dtype = engine["model.norm.weight"].device, engine["model.norm.weight"].dtype
    for tensor in engine.values():
        tensor.zero_()
    watch = Watch(device)
    side(weights, engine, folder, watch)
    for name, tensor in weights.items():
        if not torch.equal(engine[name], tensor.to(dtype)):
            raise SystemExit(f"{side.__name__}: {name} is not what was sent")
    for left in folder.iterdir():
        shutil.rmtree(left)
    return watch


def medians(rounds: list[Seconds]) -> Seconds:
    """By phase, and of the whole transfer on one machine."""
    found = {phase: statistics.median(each[phase] for each in rounds) for phase in rounds[0]}
    return found | {"total": statistics.median(sum(each[name] for name in TRANSFER) for each in rounds)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--device", default="cpu")
    options.add_argument("--folder", type=Path, default=SHARED if os.access(SHARED, os.W_OK) else ROOT / ".bench")
    options.add_argument("--json", type=Path, default=ROOT / ".bench/transfer/results.json")
    arguments = options.parse_args()
    device = torch.device(arguments.device)
    torch.manual_seed(0)
    torch.set_num_threads(1)  # of compute, as a trainer and an engine that share the cores of a small machine
    dtype, layers = CASES[device.type]
    weights = {name: torch.randn(shape, device=device) for name, shape in shapes(layers).items()}
    engine = {name: torch.empty_like(tensor, dtype=dtype) for name, tensor in weights.items()}
    folder = arguments.folder / f"bench-transfer-{os.getpid()}"
    folder.mkdir(parents=True)
    found: dict[str, list[Watch]] = {"ours": [], "peers": []}
    try:
        for number in range(arguments.rounds + 1):
            for side in (ours, peers):
                watch = turn(side, weights, engine, folder)
                if number:  # the first warms up
                    found[side.__name__].append(watch)
    finally:
        shutil.rmtree(folder)
    wall = {side: medians([watch.seconds for watch in watches]) for side, watches in found.items()}
    cpu = {side: medians([watch.cpu_seconds for watch in watches]) for side, watches in found.items()}
    ratio = wall["peers"]["total"] / wall["ours"]["total"]
    size = sum(tensor.numel() * tensor.element_size() for tensor in engine.values())
    print(f"{size / 1e9:.2f} GB through {arguments.folder}, {device}, median of {arguments.rounds}: wall, CPU seconds")
    print(f"  {'':28} {'ours':>16} {'before':>16}")
    for phase in wall["ours"]:
        cells = [f"{wall[s][phase]:8.2f}{cpu[s][phase]:8.2f}" if phase in wall[s] else "" for s in ("ours", "peers")]
        print(f"  {phase:28} {cells[0]:>16} {cells[1]:>16}")
    print(f"transfer ratio: {ratio:.1f} (bar {BAR:g})")
    rounds = {side: [[watch.seconds, watch.cpu_seconds] for watch in watches] for side, watches in found.items()}
    report = {"device": str(device), "bytes": size, "folder": str(arguments.folder), "ratio": ratio}
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(report | {"wall": wall, "cpu": cpu, "rounds": rounds}, indent=1))
    sys.exit(ratio < BAR)


if __name__ == "__main__":
    main()
