"""How far trainer and engine are from each other with heads in bfloat16 and in float32, on real weights and a CPU.

SmolLM2-135M (examples/real-model/get_model.py fetches it) answers real chats on two real vLLM in bfloat16, one of them
with a float32 head; the trainer's policy, in bfloat16 too, says what it finds of the sampled tokens, with both heads.
On a GPU `make gpu-check` measures the same through the trainer's own mixed precision.

    make bench-head        # writes .bench/head.json, about 5 minutes
"""

from __future__ import annotations

import json
import sys
import time
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402

from gpu.agreement import Agreement, agreement, deltas  # noqa: E402
from gpu.checks.real_weights import PROMPTS, TOKENS, chats  # noqa: E402
from gpu.rollouts import MODEL_LENGTH, Rollout, launched, rollout  # noqa: E402
from toolorchestra.engines.arguments import EngineConfig  # noqa: E402
from toolorchestra.engines.startup import Patience  # noqa: E402
from toolorchestra.trainer.trainer import Trainer, TrainerConfig  # noqa: E402

MODEL = ROOT / ".cache" / "real-model" / "smollm2-135m-instruct"
START_SECONDS = 900.0


def answers(folder: Path, *, head_float32: bool, log: Path) -> Rollout:
    """Sampled by an engine in bfloat16."""
    config = EngineConfig(
        model_dir=str(folder),
        dtype="bfloat16",
        head_float32=head_float32,
        max_model_len=MODEL_LENGTH,
        max_num_seqs=PROMPTS,
        kv_cache_bytes=1 << 30,
        threads=2,
    )
    with launched(config, log=log) as server:
        server.wait_ready(Patience(total=START_SECONDS))
        return rollout(server, chats(folder, PROMPTS), tokens=TOKENS, at_a_time=PROMPTS)


def policy(folder: Path, *, head_float32: bool) -> Trainer:
    """A trainer whose weights and products are bfloat16, but for the head's where that is asked for."""
    trainer = Trainer(TrainerConfig(model_dir=str(folder), head_float32=head_float32, threads=2))
    trainer.policy.bfloat16()
    return trainer


def row(found: Agreement) -> dict[str, Any]:
    return {"tokens": found.tokens, "mean": found.mean, "p99": found.p99, "k3": found.k3, "rms": found.rms}


def main() -> None:
    parser = ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, default=MODEL, help="a Hugging Face folder")
    parser.add_argument("--out", type=Path, default=ROOT / ".bench" / "head.json")
    options = parser.parse_args()
    if not (options.model / "config.json").is_file():
        sys.exit(f"no model at {options.model}: make it with examples/real-model/get_model.py {options.model}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"model": options.model.name, "torch": torch.__version__}
    for engine in (False, True):
        began = time.perf_counter()
        name = "float32" if engine else "bfloat16"
        found = answers(options.model, head_float32=engine, log=options.out.with_name(f"head-engine-{name}.log"))
        print(f"engine with a head in {name}: {time.perf_counter() - began:.0f} s", flush=True)
        for trainer in (False, True):
            pair = f"engine {name}, trainer {'float32' if trainer else 'bfloat16'}"
            results[pair] = row(agreement(deltas(policy(options.model, head_float32=trainer), found.samples)))
            shown = ", ".join(f"{key} {value:.5f}" for key, value in results[pair].items() if key != "tokens")
            print(f"{pair}: {shown}", flush=True)
            options.out.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
